// Single-producer, single-consumer ring of samples: sedstream/audio/ring.py without Python.
//
// Both counters only grow; the producer alone moves `written`, the consumer alone `read`. Nothing here waits, locks or
// allocates after the start, so the producer may be an audio thread.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

class Ring {
 public:
  // Holes that can be noted before the consumer looks. When all are taken, what comes is lost until it does, and that is
  // one hole more, at the place of the last one: also then nothing is lost silently.
  static constexpr int64_t kHoles = 1024;

  explicit Ring(int64_t capacity) : capacity_(capacity), data_(new float[capacity]()) {}

  int64_t waiting() const {
    const int64_t read = read_.load(std::memory_order_acquire);  // first: it never passes what is loaded next
    return written_.load(std::memory_order_acquire) - read;
  }

  // Producer: every `stride`-th of `samples`, `count` of them; what does not fit is noted as lost. The number stored.
  int64_t write(const float* samples, int64_t count, int64_t stride) {
    const int64_t written = written_.load(std::memory_order_relaxed);
    // Samples are stored only while a hole behind them could be noted: `lose` always finds a place.
    const bool notable = noted_.load(std::memory_order_relaxed) - told_.load(std::memory_order_acquire) < kHoles;
    const int64_t room = notable ? capacity_ - (written - read_.load(std::memory_order_acquire)) : 0;
    const int64_t kept = std::min(count, room);
    const int64_t start = written % capacity_;
    const int64_t head = std::min(kept, capacity_ - start);
    for (int64_t n = 0; n < head; ++n) data_[start + n] = samples[n * stride];
    for (int64_t n = head; n < kept; ++n) data_[n - head] = samples[n * stride];
    written_.store(written + kept, std::memory_order_release);
    if (kept < count) lose(count - kept);
    return kept;
  }

  // Producer: `samples` are missing at the current position.
  void lose(int64_t samples) {
    const int64_t written = written_.load(std::memory_order_relaxed);
    const int64_t noted = noted_.load(std::memory_order_relaxed);
    if (noted > 0 && hole(noted - 1).position == written) {
      // The consumer does not leave the hole at `written` behind, so it sees what is added.
      hole(noted - 1).samples.fetch_add(samples, std::memory_order_release);
      return;
    }
    hole(noted).position = written;
    hole(noted).samples.store(samples, std::memory_order_relaxed);
    noted_.store(noted + 1, std::memory_order_release);
  }

  // Consumer: everything that waits, in order. Calls `stored(first, n, second, m)` for samples, in two pieces where they
  // wrap, and `lost(n)` for a hole between them; stops, and returns false, when one of them does.
  template <class Stored, class Lost>
  bool read(Stored stored, Lost lost) {
    const int64_t end = written_.load(std::memory_order_acquire);
    // Loaded second: whatever was noted before sample `end` is seen now.
    const int64_t noted = noted_.load(std::memory_order_acquire);
    for (int64_t n = told_.load(std::memory_order_relaxed); n < noted && hole(n).position <= end; ++n) {
      const int64_t position = hole(n).position;
      if (!take(position, stored)) return false;
      const int64_t samples = hole(n).samples.exchange(0, std::memory_order_acquire);
      if (samples > 0 && !lost(samples)) {
        hole(n).samples.fetch_add(samples, std::memory_order_relaxed);
        return false;
      }
      if (position == end) break;  // the producer may still add to this one
      told_.store(n + 1, std::memory_order_release);
    }
    return take(end, stored);
  }

 private:
  struct Hole {
    int64_t position = 0;
    std::atomic<int64_t> samples{0};
  };

  Hole& hole(int64_t number) { return holes_[number % kHoles]; }

  template <class Stored>
  bool take(int64_t end, Stored stored) {
    const int64_t read = read_.load(std::memory_order_relaxed);
    const int64_t count = end - read;
    if (count <= 0) return true;
    const int64_t start = read % capacity_;
    const int64_t head = std::min(count, capacity_ - start);
    if (!stored(&data_[start], head, &data_[0], count - head)) return false;
    read_.store(end, std::memory_order_release);
    return true;
  }

  const int64_t capacity_;
  const std::unique_ptr<float[]> data_;
  Hole holes_[kHoles];
  std::atomic<int64_t> written_{0}, read_{0};  // samples
  std::atomic<int64_t> noted_{0}, told_{0};    // holes
};

static_assert(std::atomic<int64_t>::is_always_lock_free, "an audio thread must not meet a lock");
