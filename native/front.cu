// The CUDA front-end: every session's window, out of rings on the device, as float32 and normalised, in one launch.
// front.py holds the twin in torch and says what the numbers mean.
//
// Only raw pointers and a stream come in, and everything that changes from tick to tick is read on the device: a launch
// can be captured into a CUDA graph. The library is loaded with ctypes and knows neither Python nor torch.

#include <cuda_runtime.h>

#include <cstdint>

namespace {

constexpr int kThreads = 1024;
constexpr int kWarp = 32;

// One block a window. Sums are of whole numbers, so they are exact and no order of adding can change an answer.
template <class Sample>
__global__ void __launch_bounds__(kThreads)
    windows(const Sample* rings, int64_t capacity, const int16_t* levels, const int64_t* slots, const int64_t* ends,
            int64_t width, bool normalise, float epsilon, float* out) {
  const Sample* ring = rings + slots[blockIdx.x] * capacity;
  const int64_t begin = ends[blockIdx.x] - width;
  // Where sample `begin` stands in the ring; what lies before sample 0 is silence.
  const int64_t start = ((begin % capacity) + capacity) % capacity;
  const auto level = [&](int64_t n) -> int {
    if (begin + n < 0) return 0;
    const int64_t place = start + n < capacity ? start + n : start + n - capacity;
    if constexpr (sizeof(Sample) == 1) {
      return levels[ring[place]];
    } else {
      return ring[place];
    }
  };

  __shared__ float shift, scale;
  if (normalise) {
    long long sum = 0, squares = 0;
    for (int64_t n = threadIdx.x; n < width; n += kThreads) {
      const int x = level(n);
      sum += x;
      squares += static_cast<long long>(x) * x;
    }
    for (int step = kWarp / 2; step > 0; step /= 2) {
      sum += __shfl_down_sync(0xffffffffu, sum, step);
      squares += __shfl_down_sync(0xffffffffu, squares, step);
    }
    __shared__ long long sums[kThreads / kWarp], all_squares[kThreads / kWarp];
    if (threadIdx.x % kWarp == 0) {
      sums[threadIdx.x / kWarp] = sum;
      all_squares[threadIdx.x / kWarp] = squares;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      sum = squares = 0;
      for (int n = 0; n < kThreads / kWarp; ++n) {
        sum += sums[n];
        squares += all_squares[n];
      }
      const double mean = static_cast<double>(sum) / static_cast<double>(width);
      const double power = static_cast<double>(squares) / static_cast<double>(width) - mean * mean;
      // In units of 1/32768, as the samples; epsilon is meant for samples in -1..1.
      shift = static_cast<float>(mean);
      scale = static_cast<float>(rsqrt(fmax(power, 0.0) + epsilon * 32768.0 * 32768.0));
    }
    __syncthreads();
  } else if (threadIdx.x == 0) {
    shift = 0;
    scale = 1.0f / 32768;
  }
  __syncthreads();
  float* row = out + blockIdx.x * width;
  for (int64_t n = threadIdx.x; n < width; n += kThreads) row[n] = (static_cast<float>(level(n)) - shift) * scale;
}

}  // namespace

// `rings` [slots, capacity] of int16, or of G.711 bytes when `levels` holds what each of 256 means; `slots` and `ends`
// [rows] int64; `out` [rows, width] float32: all on the device. Returns 0, or an error of the CUDA runtime.
extern "C" int sedstream_windows(const void* rings, int64_t capacity, const int16_t* levels, const int64_t* slots,
                                 const int64_t* ends, int64_t rows, int64_t width, int normalise, float epsilon,
                                 float* out, void* stream) {
  if (rows == 0) return 0;
  const auto blocks = static_cast<unsigned>(rows);
  const auto queue = static_cast<cudaStream_t>(stream);
  if (levels == nullptr) {
    windows<<<blocks, kThreads, 0, queue>>>(static_cast<const int16_t*>(rings), capacity, levels, slots, ends, width,
                                            normalise != 0, epsilon, out);
  } else {
    windows<<<blocks, kThreads, 0, queue>>>(static_cast<const uint8_t*>(rings), capacity, levels, slots, ends, width,
                                            normalise != 0, epsilon, out);
  }
  return cudaGetLastError();
}

extern "C" const char* sedstream_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }
