#include "rules.h"

#include <algorithm>
#include <random>

#include "duration.h"
#include "errors.h"

namespace jobgateway::internal {

using std::chrono::nanoseconds;
using std::chrono::steady_clock;
using v1::JobEvent;
using v1::WatchJobRequest;

namespace {

constexpr nanoseconds kDefaultHeartbeat = std::chrono::seconds(15);
constexpr nanoseconds kLeastSilence = std::chrono::seconds(3);

}  // namespace

nanoseconds Silence(const WatchJobRequest& request) {
  if (!request.has_heartbeat_interval()) return 3 * kDefaultHeartbeat;
  return std::max<nanoseconds>(3 * ToNanoseconds(request.heartbeat_interval()),
                               kLeastSilence);
}

Error SilentStream() {
  return {grpc::StatusCode::CANCELLED, "no event for three heartbeat intervals",
          kSilent};
}

bool ProvesToken(const JobEvent& event) {
  const v1::Heartbeat& heartbeat = event.heartbeat();
  return event.has_job() || event.has_content_chunk() ||
         (heartbeat.has_observe_time() && heartbeat.last_failure().empty());
}

nanoseconds Backoff::Next(const Error& error) {
  thread_local std::mt19937 random{std::random_device()()};
  std::uniform_int_distribution<nanoseconds::rep> jitter(bound_.count() / 2,
                                                         bound_.count());
  const nanoseconds wait(jitter(random));
  bound_ = std::min(2 * bound_, kLongestWait);
  return std::max(wait, error.retry_delay.value_or(wait));
}

void Backoff::Worked(steady_clock::time_point since) {
  // One event does not prove that an attempt works: it may break after its
  // first event each time.
  if (steady_clock::now() - since > kLongestWait) bound_ = kShortestWait;
}

void StreamRules::Opened() { opened_ = steady_clock::now(); }

void StreamRules::Heard(bool proves_token, bool advances) {
  heard_any_ = true;
  if (proves_token) token_unproven_ = false;
  if (advances) advanced_ = true;
  backoff_.Worked(opened_);
}

bool StreamRules::WantsToken(const Error& error) const {
  return error.code == grpc::StatusCode::UNAUTHENTICATED && !token_unproven_;
}

std::optional<Retry> StreamRules::Resume(const Error& error, bool renewed) {
  if (renewed) {
    Renewed();
  } else if (!MayResume(error)) {
    return std::nullopt;
  }
  return Next(error);
}

std::optional<Retry> StreamRules::ResumeOnce(const Error& error) {
  if (!IsFirstHere()) return std::nullopt;
  return Next(error);
}

bool StreamRules::MayResume(const Error& error) {
  if (IsTransient(error) || IsBroken(error)) return true;
  if (IsFromGateway(error)) return false;
  // A message over this client's own receive limit causes these, and would
  // cause them again.
  const bool over_limit = error.code == grpc::StatusCode::RESOURCE_EXHAUSTED ||
                          error.code == grpc::StatusCode::OUT_OF_RANGE;
  if (over_limit && !IsFirstHere()) return false;
  // Before the first event, others mean a wrong address or request.
  return heard_any_;
}

Retry StreamRules::Next(const Error& error) {
  return {error, backoff_.Next(error), WantsNewConnection(error)};
}

}  // namespace jobgateway::internal
