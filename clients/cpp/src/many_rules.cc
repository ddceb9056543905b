#include "many_rules.h"

#include <algorithm>

#include "errors.h"

namespace jobgateway::internal {

using std::chrono::nanoseconds;
using std::chrono::steady_clock;
using v1::JobEvent;
using v1::WatchJobRequest;
using v1::WatchJobsRequest;

ManyRules::ManyRules(const std::vector<WatchJobRequest>& requests)
    : silence_(Silence(requests.empty() ? WatchJobRequest() : requests[0])) {
  for (const WatchJobRequest& request : requests) {
    Job job{request, Result(request.content_format())};
    // A stream takes its interval from the request that comes first.
    job.request.clear_heartbeat_interval();
    if (requests[0].has_heartbeat_interval()) {
      *job.request.mutable_heartbeat_interval() =
          requests[0].heartbeat_interval();
    }
    jobs_.emplace(request.uid(), std::move(job));
  }
}

const std::string& ManyRules::chunks(std::int64_t uid) const {
  static const std::string none;
  if (ended_ && ended_->first == uid) return ended_->second.chunks();
  const auto job = jobs_.find(uid);
  return job == jobs_.end() ? none : job->second.result.chunks();
}

void ManyRules::Opened() {
  stream_.Opened();
  sent_ = 0;
  no_token_ = false;
  unsent_ = {};
  for (auto& [uid, job] : jobs_) {
    job.sent = false;
    unsent_.emplace(job.due, uid);
  }
}

std::optional<WatchJobsRequest> ManyRules::NextRequest() {
  while (next_due() <= steady_clock::now()) {
    const auto found = jobs_.find(unsent_.top().second);
    unsent_.pop();
    if (found == jobs_.end()) continue;
    Job& job = found->second;
    job.sent = true;
    job.sent_at = steady_clock::now();
    ++sent_;
    WatchJobsRequest request;
    *request.mutable_watch() = job.request;
    return request;
  }
  return std::nullopt;
}

steady_clock::time_point ManyRules::next_due() const {
  return unsent_.empty() ? Time::max() : unsent_.top().first;
}

ManyRules::Outcome ManyRules::Take(JobEvent* event) {
  ended_.reset();
  Note(*event);
  const auto found = jobs_.find(event->uid());
  if (found == jobs_.end()) {
    const bool about_stream = event->uid() == 0 && !event->has_failure();
    return about_stream ? Outcome::kShow : Outcome::kIgnore;
  }
  if (event->has_failure()) {
    return Fail(found, jobgateway::ErrorOf(event->failure()));
  }
  Job& job = found->second;
  if (!event->resume_token().empty()) {
    job.request.set_resume_token(event->resume_token());
  }
  if (ProvesToken(*event)) job.token_unproven = false;
  job.backoff.Worked(job.sent_at);
  const std::optional<Error> damage = job.result.Take(*event);
  if (event->job().done()) End(found);
  if (damage) {
    v1::WatchFailure& failure = *event->mutable_failure();
    failure.set_code(damage->code);
    failure.set_message(damage->message);
    failure.mutable_metadata()->insert(damage->metadata.begin(),
                                       damage->metadata.end());
  }
  return Outcome::kShow;
}

// Notes what an event says about the stream.
void ManyRules::Note(const JobEvent& event) {
  const bool synced =
      event.has_synced() && event.synced().watch_requests() >= sent_;
  // A failure is no progress, although it may have a token.
  stream_.Heard(synced || ProvesToken(event),
                !event.has_failure() && !event.resume_token().empty());
  if (!synced) return;
  for (auto& [uid, job] : jobs_) {
    if (job.sent) job.token_unproven = false;
  }
}

ManyRules::Outcome ManyRules::Fail(Jobs::iterator found, const Error& error) {
  // It is about a repeated request, and ends no watch.
  if (error.reason == "ALREADY_WATCHED") return Outcome::kIgnore;
  auto& [uid, job] = *found;
  if (error.code == grpc::StatusCode::UNAUTHENTICATED && !job.token_unproven &&
      !no_token_) {
    return Outcome::kLogIn;
  }
  if (IsTransient(error)) {
    job.sent = false;
    job.due = steady_clock::now() + job.backoff.Next(error);
    unsent_.emplace(job.due, uid);
    return Outcome::kAgain;
  }
  End(found);
  return Outcome::kShow;
}

void ManyRules::End(Jobs::iterator job) {
  ended_.emplace(job->first, std::move(job->second.result));
  jobs_.erase(job);
}

nanoseconds ManyRules::WaitOf(std::int64_t uid) const {
  return jobs_.at(uid).due - steady_clock::now();
}

Retry ManyRules::LogIn(const Error& error) {
  Renewed();
  return Prepare(stream_.Next(error));
}

void ManyRules::WithoutLogin(std::int64_t uid) {
  no_token_ = true;
  End(jobs_.find(uid));
}

std::optional<Retry> ManyRules::Resume(const Error& error, bool renewed) {
  if (renewed) Renewed();
  // The cause of a defect may be one event, which would come again.
  const std::optional<Retry> next = error.reason == "GATEWAY_DEFECT"
                                        ? stream_.ResumeOnce(error)
                                        : stream_.Resume(error, renewed);
  if (!next) return std::nullopt;
  return Prepare(*next);
}

// Notes that the next stream has a fresh token.
void ManyRules::Renewed() {
  stream_.Renewed();
  for (auto& [uid, job] : jobs_) job.token_unproven = true;
}

// Lets the next stream wait until one of the jobs is due: without a request, a
// stream has no heartbeats.
Retry ManyRules::Prepare(Retry next) const {
  Time first = Time::max();
  for (const auto& [uid, job] : jobs_) first = std::min(first, job.due);
  next.wait = std::max<nanoseconds>(next.wait, first - steady_clock::now());
  next.jobs = pending();
  return next;
}

}  // namespace jobgateway::internal
