// The rules of the resuming watches: whether, when and how to continue after a
// failure (docs/clients/index.md). No input or output.

#ifndef JOBCLIENT_RULES_H_
#define JOBCLIENT_RULES_H_

#include <chrono>
#include <optional>
#include <utility>

#include "failure.h"
#include "jobgateway/v1/job_service.pb.h"

namespace jobclient {

inline constexpr std::chrono::nanoseconds kShortestWait =
    std::chrono::milliseconds(200);
inline constexpr std::chrono::nanoseconds kLongestWait =
    std::chrono::seconds(5);

// The longest time between the end of the last job and that of its stream.
inline constexpr std::chrono::nanoseconds kEndLimit = std::chrono::seconds(5);

// The next stream after a failure: what it needs, and the wait before it.
struct Resumption {
  Failure failure;
  bool new_connection;
  bool fresh_token;
  std::chrono::nanoseconds wait;
};

// Returns how long a stream may be silent: three heartbeat intervals.
std::chrono::nanoseconds Silence(
    const jobgateway::v1::WatchJobRequest& request);

// Returns the failure of a stream that was silent for longer than that.
Failure SilentStream();

// Returns whether an event proves that the upstream accepts the token. Some
// heartbeats do not: those before the first read has ended, and those between
// a refusal and the read that confirms it.
bool ProvesToken(const jobgateway::v1::JobEvent& event);

// The waits between attempts: random, with a bound that doubles.
class Backoff {
 public:
  // Returns the wait before the next attempt, at least that of the failure.
  std::chrono::nanoseconds Next(const Failure& failure);

  // Notes a sign of life of an attempt, with the time at which that began.
  void Worked(std::chrono::steady_clock::time_point since);

 private:
  std::chrono::nanoseconds bound_ = kShortestWait;
};

// The resumption of one stream after another.
class StreamRules {
 public:
  // Notes that a stream begins.
  void Opened();

  // Notes an event. `advances`: the next stream continues after it.
  void Heard(bool proves_token, bool advances);

  // Returns how to continue after the failure of a stream, or nothing if it is
  // final.
  std::optional<Resumption> Resume(const Failure& failure);

  // The same for a failure that is final if it comes again at the same place.
  std::optional<Resumption> ResumeOnce(const Failure& failure);

  // Returns how to continue with a fresh token.
  Resumption LogIn(const Failure& failure);

 private:
  bool MayResume(const Failure& failure);
  bool IsFirstHere() { return std::exchange(advanced_, false); }
  Resumption Next(const Failure& failure);

  std::chrono::steady_clock::time_point opened_;
  Backoff backoff_;
  bool heard_any_ = false;
  // An event after which the next stream continues has arrived since the last
  // failure that may come again at the same place.
  bool advanced_ = true;
  // No event since the last login proves that the upstream accepts the token.
  bool token_unproven_ = false;
};

}  // namespace jobclient

#endif  // JOBCLIENT_RULES_H_
