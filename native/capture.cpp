// sedstream.audio._capture: the capture ring, and PortAudio's callback into it, so that no Python runs in the audio
// thread and none is waited for. Limited API: one binary serves every Python from 3.11 on.

#include <Python.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <new>

#include "clock.h"
#include "ring.h"

namespace {

// What PortAudio (v19, portaudio.h) passes to a callback; its header need not be installed.
struct TimeInfo {
  double input_captured, now, output_played;  // seconds of the stream's clock
};
constexpr unsigned long kInputOverflow = 2;
constexpr int kContinue = 0;

struct Capture {
  Capture(Ring& into, int64_t rate, int64_t channels) : ring(into), clock(rate), stride(channels) {}

  Ring& ring;
  CaptureClock clock;
  const int64_t stride;
  std::atomic<int64_t> captured{0}, lost{0};  // samples
  std::atomic<float> peak{0};
  std::atomic<bool> stopped{false};
};

// PortAudio's thread: `frames` frames of interleaved float32.
int on_block(const void* input, void*, unsigned long frames, const TimeInfo* time, unsigned long flags, void* user) {
  Capture& capture = *static_cast<Capture*>(user);
  if (capture.stopped.load(std::memory_order_relaxed) || frames == 0 || input == nullptr) return kContinue;
  const auto count = static_cast<int64_t>(frames);
  const auto samples = static_cast<const float*>(input);
  const int64_t lost = capture.clock.lost(count, time->input_captured, time->now, (flags & kInputOverflow) != 0);
  if (lost > 0) {
    capture.ring.lose(lost);
    capture.lost.fetch_add(lost, std::memory_order_relaxed);
  }
  capture.ring.write(samples, count, capture.stride);
  capture.captured.fetch_add(lost + count, std::memory_order_relaxed);
  float peak = capture.peak.load(std::memory_order_relaxed);
  for (int64_t n = 0; n < count; ++n) peak = std::max(peak, std::abs(samples[n * capture.stride]));
  capture.peak.store(peak, std::memory_order_relaxed);
  return kContinue;
}

// The Python types. Each object holds one C++ object, made in __new__.

struct RingObject {
  PyObject_HEAD
  Ring* ring;
};

struct CaptureObject {
  PyObject_HEAD
  Capture* capture;
  PyObject* ring;  // the RingObject that it writes into
};

PyObject* new_object(PyTypeObject* type) {
  const auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
  return allocate(type, 0);
}

void free_object(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  const auto release = reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free));
  release(self);
  Py_DECREF(type);
}

Ring& ring_of(PyObject* self) { return *reinterpret_cast<RingObject*>(self)->ring; }
Capture& capture_of(PyObject* self) { return *reinterpret_cast<CaptureObject*>(self)->capture; }

PyObject* ring_new(PyTypeObject* type, PyObject* args, PyObject*) {
  long long capacity = 0;
  if (!PyArg_ParseTuple(args, "L:Ring", &capacity)) return nullptr;
  if (capacity <= 0) return PyErr_Format(PyExc_ValueError, "Bad ring capacity %lld, expected at least 1", capacity);
  PyObject* self = new_object(type);
  if (self == nullptr) return nullptr;
  try {
    reinterpret_cast<RingObject*>(self)->ring = new Ring(capacity);
  } catch (const std::bad_alloc&) {
    Py_DECREF(self);
    return PyErr_NoMemory();
  }
  return self;
}

void ring_free(PyObject* self) {
  delete reinterpret_cast<RingObject*>(self)->ring;
  free_object(self);
}

Py_ssize_t ring_length(PyObject* self) { return static_cast<Py_ssize_t>(ring_of(self).waiting()); }

PyObject* ring_write(PyObject* self, PyObject* samples) {
  Py_buffer view;
  if (PyObject_GetBuffer(samples, &view, PyBUF_SIMPLE) < 0) return nullptr;
  const auto count = static_cast<int64_t>(view.len / sizeof(float));
  const int64_t kept = ring_of(self).write(static_cast<const float*>(view.buf), count, 1);
  PyBuffer_Release(&view);
  return PyLong_FromLongLong(kept);
}

PyObject* ring_lose(PyObject* self, PyObject* samples) {
  const long long count = PyLong_AsLongLong(samples);
  if (count == -1 && PyErr_Occurred()) return nullptr;
  ring_of(self).lose(count);
  Py_RETURN_NONE;
}

bool append(PyObject* list, PyObject* part) {
  const bool done = part != nullptr && PyList_Append(list, part) == 0;
  Py_XDECREF(part);
  return done;
}

PyObject* ring_read(PyObject* self, PyObject*) {
  PyObject* parts = PyList_New(0);
  if (parts == nullptr) return nullptr;
  const auto stored = [parts](const float* first, int64_t n, const float* second, int64_t m) {
    PyObject* part = PyByteArray_FromStringAndSize(nullptr, static_cast<Py_ssize_t>((n + m) * sizeof(float)));
    if (part != nullptr) {
      const auto samples = reinterpret_cast<float*>(PyByteArray_AsString(part));
      std::copy(first, first + n, samples);
      std::copy(second, second + m, samples + n);
    }
    return append(parts, part);
  };
  const auto lost = [parts](int64_t samples) { return append(parts, PyLong_FromLongLong(samples)); };
  if (ring_of(self).read(stored, lost)) return parts;
  Py_DECREF(parts);
  return nullptr;
}

PyMethodDef ring_methods[] = {
    {"write", ring_write, METH_O, "Producer: store what fits of a buffer of float32; the number of samples stored."},
    {"lose", ring_lose, METH_O, "Producer: note that so many samples are missing at the current position."},
    {"read", ring_read, METH_NOARGS, "Consumer: all that waits: bytearrays of float32, ints for samples lost."},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot ring_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(ring_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(ring_free)},
    {Py_sq_length, reinterpret_cast<void*>(ring_length)},
    {Py_tp_methods, ring_methods},
    {Py_tp_doc, const_cast<char*>("Ring(capacity): samples of float32, one producer, one consumer.")},
    {0, nullptr},
};
PyType_Spec ring_spec = {"sedstream.audio._capture.Ring", sizeof(RingObject), 0, Py_TPFLAGS_DEFAULT, ring_slots};

PyObject* capture_new(PyTypeObject* type, PyObject* args, PyObject*) {
  PyObject* module = PyType_GetModule(type);
  PyObject* ring_type = module == nullptr ? nullptr : PyObject_GetAttrString(module, "Ring");
  if (ring_type == nullptr) return nullptr;
  PyObject* ring = nullptr;
  long long rate = 0, channels = 0;
  const int parsed = PyArg_ParseTuple(args, "O!LL:Capture", ring_type, &ring, &rate, &channels);
  Py_DECREF(ring_type);
  if (!parsed) return nullptr;
  if (rate <= 0 || channels <= 0) {
    return PyErr_Format(PyExc_ValueError, "Bad rate %lld or channels %lld, expected at least 1", rate, channels);
  }
  PyObject* self = new_object(type);
  if (self == nullptr) return nullptr;
  auto* made = reinterpret_cast<CaptureObject*>(self);
  Py_INCREF(ring);
  made->ring = ring;
  made->capture = new (std::nothrow) Capture(ring_of(ring), rate, channels);
  if (made->capture == nullptr) {
    Py_DECREF(self);
    return PyErr_NoMemory();
  }
  return self;
}

void capture_free(PyObject* self) {
  delete reinterpret_cast<CaptureObject*>(self)->capture;
  Py_XDECREF(reinterpret_cast<CaptureObject*>(self)->ring);
  free_object(self);
}

PyObject* capture_level(PyObject* self, PyObject*) {
  return PyFloat_FromDouble(capture_of(self).peak.exchange(0, std::memory_order_relaxed));
}

PyObject* capture_stop(PyObject* self, PyObject*) {
  capture_of(self).stopped.store(true, std::memory_order_relaxed);
  Py_RETURN_NONE;
}

PyObject* capture_captured(PyObject* self, void*) { return PyLong_FromLongLong(capture_of(self).captured.load()); }
PyObject* capture_lost(PyObject* self, void*) { return PyLong_FromLongLong(capture_of(self).lost.load()); }
PyObject* capture_callback(PyObject*, void*) { return PyLong_FromVoidPtr(reinterpret_cast<void*>(on_block)); }
PyObject* capture_userdata(PyObject* self, void*) { return PyLong_FromVoidPtr(&capture_of(self)); }

PyMethodDef capture_methods[] = {
    {"level", capture_level, METH_NOARGS, "The highest absolute sample since the last call."},
    {"stop", capture_stop, METH_NOARGS, "Ignore all later blocks."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef capture_properties[] = {
    {"captured", capture_captured, nullptr, "Samples since the start, lost ones included.", nullptr},
    {"lost", capture_lost, nullptr, "How many of them the host lost.", nullptr},
    {"callback", capture_callback, nullptr, "Address of the PaStreamCallback.", nullptr},
    {"userdata", capture_userdata, nullptr, "Address to pass to it; valid as long as this object lives.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot capture_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(capture_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(capture_free)},
    {Py_tp_methods, capture_methods},
    {Py_tp_getset, capture_properties},
    {Py_tp_doc, const_cast<char*>("Capture(ring, rate, channels): the first channel of a stream, into a ring.")},
    {0, nullptr},
};
PyType_Spec capture_spec = {"sedstream.audio._capture.Capture", sizeof(CaptureObject), 0, Py_TPFLAGS_DEFAULT,
                            capture_slots};

int add_types(PyObject* module) {
  for (PyType_Spec* spec : {&ring_spec, &capture_spec}) {
    PyObject* type = PyType_FromModuleAndSpec(module, spec, nullptr);
    const int failed = type == nullptr ? -1 : PyModule_AddType(module, reinterpret_cast<PyTypeObject*>(type));
    Py_XDECREF(type);
    if (failed < 0) return failed;
  }
  return 0;
}

PyModuleDef_Slot module_slots[] = {{Py_mod_exec, reinterpret_cast<void*>(add_types)}, {0, nullptr}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "_capture", nullptr, 0, nullptr, module_slots, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__capture() { return PyModuleDef_Init(&module); }
