#include <jobgateway/client.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <optional>
#include <random>
#include <utility>

#include "attempts.h"
#include "connection.h"
#include "duration.h"
#include "errors.h"
#include "result.h"
#include "rules.h"
#include "watch_all_impl.h"
#include "watch_impl.h"

namespace jobgateway {

namespace {

using internal::Attempts;
using internal::Connection;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr int kMaxAttempts = 5;  // of a unary call, including the first
constexpr int kUnlimited = std::numeric_limits<int>::max();

// The gateway gives up a read after 10 silent seconds, and a submission after
// 120.
constexpr seconds kReadLimit{30};
constexpr seconds kSendLimit{150};
constexpr seconds kWaitLimit{40};  // of a WaitJob without a timeout

// The gateway responds to a WaitJob shortly before its deadline. A further one
// would only load it.
constexpr seconds kLeastWait{1};

template <typename Request>
using Rpc = grpc::Status (Connection::Stub::*)(grpc::ClientContext*,
                                               const Request&, v1::Job*);

bool MayRetry(const Error& error) { return error.action() == Action::kRetry; }

// Makes a call and retries it if the error allows that. `uid`: 0 for a
// submission. `limit`: the time after which the connection counts as dead.
template <typename Request, typename Predicate>
v1::Job Unary(Attempts* attempts, Rpc<Request> rpc, const Request& request,
              std::int64_t uid, nanoseconds limit, Predicate may_retry,
              int max_attempts = kMaxAttempts) {
  internal::CheckRequest(request);
  internal::Backoff backoff;
  bool logged_in = false;
  for (int attempt = 1;; ++attempt) {
    attempts->Check();
    // In its own scope: a replaced connection closes after its last call.
    auto call = std::make_optional<internal::Call>(
        attempts->connection(), attempts->handle(), attempts->Token(), uid);
    call->context()->set_deadline(std::chrono::system_clock::now() +
                                  attempts->Cap(limit));
    v1::Job job;
    const grpc::Status status =
        ((*call->stub()).*rpc)(call->context(), request, &job);
    if (status.ok()) {
      if (attempts->options().on_replayed && call->replayed()) {
        attempts->options().on_replayed();
      }
      if (const auto damage = internal::DamageOf(job, "", false)) throw *damage;
      return job;
    }
    const auto used = call->stub();
    const std::string token = call->token();
    call.reset();
    const Error error = internal::ErrorOf(status);
    attempts->Failed(error);
    bool again = may_retry(error);
    if (error.code == grpc::StatusCode::UNAUTHENTICATED && !logged_in) {
      logged_in = true;
      again = attempts->Renew(token);
    }
    if (!again || attempt == max_attempts) throw error;
    attempts->Prepare(
        {error, backoff.Next(error), internal::WantsNewConnection(error)},
        used);
  }
}

}  // namespace

Client::Client(std::string target, Options options)
    : connection_(std::make_shared<Connection>(std::move(target),
                                               std::move(options))) {}

v1::Job Client::Send(const v1::SendJobRequest& request,
                     const CallOptions& options) {
  Attempts attempts(connection_, options);
  return Unary(&attempts, &Connection::Stub::SendJob, request, 0, kSendLimit,
               [&request](const Error& error) {
                 return internal::MaySendAgain(error, request);
               });
}

Watch Client::Run(const v1::SendJobRequest& request,
                  const CallOptions& options) {
  v1::RunJobRequest run;
  *run.mutable_request() = request;
  return Run(run, options);
}

Watch Client::Run(const v1::RunJobRequest& request,
                  const CallOptions& options) {
  internal::CheckRequest(request);
  if (request.cancel_on_disconnect()) {
    throw Error(grpc::StatusCode::INVALID_ARGUMENT,
                "cancel_on_disconnect: must not be set, because this client "
                "resumes a broken stream and the job would be cancelled");
  }
  v1::WatchJobRequest watch;
  watch.set_content_format(request.request().content_format());
  if (request.has_heartbeat_interval()) {
    *watch.mutable_heartbeat_interval() = request.heartbeat_interval();
  }
  return jobgateway::Watch(std::make_unique<jobgateway::Watch::Impl>(
      Attempts(connection_, options), request, std::move(watch)));
}

Watch Client::Watch(std::int64_t uid, const CallOptions& options) {
  v1::WatchJobRequest request;
  request.set_uid(uid);
  return Watch(request, options);
}

Watch Client::Watch(const v1::WatchJobRequest& request,
                    const CallOptions& options) {
  internal::CheckRequest(request);
  return jobgateway::Watch(std::make_unique<jobgateway::Watch::Impl>(
      Attempts(connection_, options), std::nullopt, request));
}

WatchAll Client::WatchAll(const std::vector<v1::WatchJobRequest>& requests,
                          const CallOptions& options) {
  for (const v1::WatchJobRequest& request : requests) {
    internal::CheckRequest(request);
  }
  return jobgateway::WatchAll(std::make_unique<jobgateway::WatchAll::Impl>(
      Attempts(connection_, options), requests));
}

v1::Job Client::Wait(const v1::WaitJobRequest& request,
                     const CallOptions& options) {
  nanoseconds limit = kWaitLimit + kReadLimit;
  CallOptions limited = options;
  if (request.has_timeout()) {
    limit = internal::ToNanoseconds(request.timeout()) + kReadLimit;
    limited.timeout = std::min(options.timeout.value_or(limit), limit);
  }
  Attempts attempts(connection_, std::move(limited));
  while (true) {
    v1::Job job = Unary(&attempts, &Connection::Stub::WaitJob, request,
                        request.uid(), limit, MayRetry, kUnlimited);
    if (job.done() || request.has_timeout() || attempts.Left() < kLeastWait) {
      return job;
    }
  }
}

v1::Job Client::Wait(std::int64_t uid, const CallOptions& options) {
  v1::WaitJobRequest request;
  request.set_uid(uid);
  return Wait(request, options);
}

v1::Job Client::Get(const v1::GetJobRequest& request,
                    const CallOptions& options) {
  Attempts attempts(connection_, options);
  return Unary(&attempts, &Connection::Stub::GetJob, request, request.uid(),
               kReadLimit, MayRetry);
}

v1::Job Client::Get(std::int64_t uid, const CallOptions& options) {
  v1::GetJobRequest request;
  request.set_uid(uid);
  return Get(request, options);
}

v1::Job Client::Cancel(std::int64_t uid, const CallOptions& options) {
  v1::CancelJobRequest request;
  request.set_uid(uid);
  Attempts attempts(connection_, options);
  return Unary(&attempts, &Connection::Stub::CancelJob, request, uid,
               kReadLimit, MayRetry);
}

void Client::Close() { connection_->Close(); }

v1::SendJobRequest NewRequest(const std::string& workspace_id,
                              std::int64_t entity_id,
                              const std::string& method_name) {
  std::random_device random;  // of the operating system
  std::string id;
  for (int part = 0; part < 4; ++part) {
    char hex[9];
    std::snprintf(hex, sizeof hex, "%08x", random());
    id += hex;
  }
  v1::SendJobRequest request;
  request.set_workspace_id(workspace_id);
  request.set_entity_id(entity_id);
  request.set_method_name(method_name);
  request.set_request_id(id);
  return request;
}

}  // namespace jobgateway
