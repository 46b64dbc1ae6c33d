// How many samples the host lost before each block: CaptureClock of sedstream/audio/clock.py, which says why, operation
// by operation, so that both give the same numbers.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

class CaptureClock {
 public:
  explicit CaptureClock(int64_t rate) : rate_(rate), until_(rate / 2) {}

  int64_t lost(int64_t frames, double captured, double now, bool overflow) {
    const double found = overflow ? said(frames, captured) : unsaid();
    const int64_t lost = static_cast<int64_t>(std::max(0.0, std::min(found, longest())));
    counted_ += lost;
    begins_[begun_++ % kBegins] = captured - seconds(counted_);
    counted_ += frames;
    delay_ = std::min(delay_, now - seconds(counted_));
    return lost;
  }

 private:
  static constexpr double kEven = 0.02, kSilent = 0.25, kLongest = 60.0;  // seconds
  static constexpr int kBegins = 16;
  static constexpr double kNever = std::numeric_limits<double>::infinity();

  double seconds(int64_t samples) const { return static_cast<double>(samples) / static_cast<double>(rate_); }
  double longest() const { return kLongest * static_cast<double>(rate_); }

  double said(int64_t frames, double captured) const {
    const int known = static_cast<int>(std::min<int64_t>(begun_, kBegins));
    double begins[kBegins];
    std::copy(begins_, begins_ + known, begins);
    std::sort(begins, begins + known);
    if (known < 4 || begins[known - 1] - begins[0] > kEven) return static_cast<double>(frames);
    return std::nearbyint((captured - begins[known / 2]) * static_cast<double>(rate_)) - static_cast<double>(counted_);
  }

  double unsaid() {
    if (counted_ < until_) return 0;
    const double delay = delay_, before = before_;
    before_ = delay;
    delay_ = kNever;
    until_ = counted_ + rate_ / 2;
    if (std::abs(delay - before) > kEven) return 0;
    if (delay - usual_ < kSilent) {
      usual_ = delay;
      return 0;
    }
    const double lost = std::min(std::nearbyint((delay - usual_) * static_cast<double>(rate_)), longest());
    usual_ = before_ = delay - lost / static_cast<double>(rate_);
    return lost;
  }

  const int64_t rate_;
  int64_t counted_ = 0, until_;
  double begins_[kBegins] = {};
  int64_t begun_ = 0;
  double delay_ = kNever, before_ = kNever, usual_ = kNever;
};
