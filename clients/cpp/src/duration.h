// Durations that never overflow.

#ifndef JOBGATEWAY_SRC_DURATION_H_
#define JOBGATEWAY_SRC_DURATION_H_

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "google/protobuf/duration.pb.h"

namespace jobgateway::internal {

// The longest duration, 10 years. Added to a point in time, it fits.
inline constexpr std::chrono::nanoseconds kLongest =
    std::chrono::hours(24 * 3650);

// Returns the duration, between 0 and kLongest.
inline std::chrono::nanoseconds ToNanoseconds(
    const google::protobuf::Duration& duration) {
  constexpr auto kMost =
      std::chrono::duration_cast<std::chrono::seconds>(kLongest);
  const std::chrono::seconds whole(
      std::clamp<std::int64_t>(duration.seconds(), -1, kMost.count()));
  return std::clamp<std::chrono::nanoseconds>(
      whole + std::chrono::nanoseconds(duration.nanos()),
      std::chrono::nanoseconds(0), kLongest);
}

// Sets a duration, to 0 if it is negative.
inline void Set(google::protobuf::Duration* duration,
                std::chrono::nanoseconds value) {
  value = std::max(value, std::chrono::nanoseconds(0));
  const auto whole = std::chrono::duration_cast<std::chrono::seconds>(value);
  duration->set_seconds(whole.count());
  duration->set_nanos(static_cast<std::int32_t>((value - whole).count()));
}

}  // namespace jobgateway::internal

#endif  // JOBGATEWAY_SRC_DURATION_H_
