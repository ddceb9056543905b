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

}  // namespace jobgateway::internal

#endif  // JOBGATEWAY_SRC_DURATION_H_
