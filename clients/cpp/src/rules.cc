#include "rules.h"

#include <algorithm>
#include <random>

#include "google/protobuf/util/time_util.h"

namespace jobclient {

using jobgateway::v1::JobEvent;
using jobgateway::v1::WatchJobRequest;
using std::chrono::nanoseconds;
using std::chrono::steady_clock;

namespace {

constexpr nanoseconds kDefaultHeartbeat = std::chrono::seconds(15);

}  // namespace

nanoseconds Silence(const WatchJobRequest& request) {
  if (!request.has_heartbeat_interval()) return 3 * kDefaultHeartbeat;
  return 3 *
         nanoseconds(google::protobuf::util::TimeUtil::DurationToNanoseconds(
             request.heartbeat_interval()));
}

Failure SilentStream() {
  Failure failure{
      grpc::StatusCode::CANCELLED, "no event arrived in time", "", {}, {}};
  failure.silent = true;
  return failure;
}

bool ProvesToken(const JobEvent& event) {
  const jobgateway::v1::Heartbeat& heartbeat = event.heartbeat();
  return event.has_job() || event.has_content_chunk() ||
         (heartbeat.has_observe_time() && heartbeat.last_failure().empty());
}

nanoseconds Backoff::Next(const Failure& failure) {
  thread_local std::mt19937 random{std::random_device()()};
  std::uniform_int_distribution<nanoseconds::rep> jitter(bound_.count() / 2,
                                                         bound_.count());
  const nanoseconds wait(jitter(random));
  bound_ = std::min(2 * bound_, kLongestWait);
  return std::max(wait, failure.retry_after.value_or(wait));
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

std::optional<Resumption> StreamRules::Resume(const Failure& failure) {
  if (failure.code == grpc::StatusCode::UNAUTHENTICATED && !token_unproven_) {
    return LogIn(failure);
  }
  if (!MayResume(failure)) return std::nullopt;
  return Next(failure);
}

std::optional<Resumption> StreamRules::ResumeOnce(const Failure& failure) {
  if (!IsFirstHere()) return std::nullopt;
  return Next(failure);
}

Resumption StreamRules::LogIn(const Failure& failure) {
  token_unproven_ = true;
  Resumption next = Next(failure);
  next.fresh_token = true;
  return next;
}

bool StreamRules::MayResume(const Failure& failure) {
  if (failure.is_load_limit() || failure.is_broken()) return true;
  if (failure.from_gateway()) {
    return failure.code == grpc::StatusCode::UNAVAILABLE;
  }
  // A message over this client's own receive limit causes these, and would
  // cause them again.
  const bool over_limit =
      failure.code == grpc::StatusCode::RESOURCE_EXHAUSTED ||
      failure.code == grpc::StatusCode::OUT_OF_RANGE;
  if (over_limit && !IsFirstHere()) return false;
  // Before the first event, others mean a wrong address or request.
  return heard_any_;
}

Resumption StreamRules::Next(const Failure& failure) {
  // A new connection is made immediately. The old one would wait up to two
  // minutes before it reconnects.
  const bool new_connection =
      !failure.from_gateway() || failure.reason == "DRAINING";
  return {failure, new_connection, false, backoff_.Next(failure)};
}

}  // namespace jobclient
