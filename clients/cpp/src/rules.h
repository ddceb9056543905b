// The rules of the resuming watches: whether, when and how to continue after a
// failure (docs/clients/index.md). No input or output.

#ifndef JOBGATEWAY_SRC_RULES_H_
#define JOBGATEWAY_SRC_RULES_H_

#include <jobgateway/error.h>
#include <jobgateway/options.h>
#include <jobgateway/v1/job_service.pb.h>

#include <chrono>
#include <optional>
#include <utility>

namespace jobgateway::internal {

inline constexpr std::chrono::nanoseconds kShortestWait =
    std::chrono::milliseconds(200);
inline constexpr std::chrono::nanoseconds kLongestWait =
    std::chrono::seconds(5);

// The longest time between the end of the last job and that of its stream.
inline constexpr std::chrono::nanoseconds kEndLimit = std::chrono::seconds(5);

// Returns how long a stream may be silent: three heartbeat intervals, at least
// three seconds. The gateway rejects an interval that is out of range.
std::chrono::nanoseconds Silence(const v1::WatchJobRequest& request);

// Returns the error of a stream that was silent for longer than that.
Error SilentStream();

// Returns whether an event proves that the upstream accepts the token. Some
// heartbeats do not: those before the first read has ended, and those between
// a refusal and the read that confirms it.
bool ProvesToken(const v1::JobEvent& event);

// The waits between attempts: random, with a bound that doubles.
class Backoff {
 public:
  // Returns the wait before the next attempt, at least that of the error.
  std::chrono::nanoseconds Next(const Error& error);

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

  // Returns whether a fresh token may help after an error.
  bool WantsToken(const Error& error) const;

  // Notes that the next stream has a fresh token.
  void Renewed() { token_unproven_ = true; }

  // Returns how to continue after the error of a stream, or nothing if it is
  // final. `renewed`: a fresh token was wanted, and there is one.
  std::optional<Retry> Resume(const Error& error, bool renewed);

  // The same for an error that is final if it comes again at the same place.
  std::optional<Retry> ResumeOnce(const Error& error);

  // Returns the next stream after an error.
  Retry Next(const Error& error);

 private:
  bool MayResume(const Error& error);
  bool IsFirstHere() { return std::exchange(advanced_, false); }

  std::chrono::steady_clock::time_point opened_;
  Backoff backoff_;
  bool heard_any_ = false;
  // An event after which the next stream continues has arrived since the last
  // failure that may come again at the same place.
  bool advanced_ = true;
  // No event since the last login proves that the upstream accepts the token.
  bool token_unproven_ = false;
};

}  // namespace jobgateway::internal

#endif  // JOBGATEWAY_SRC_RULES_H_
