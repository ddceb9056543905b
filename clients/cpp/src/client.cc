#include <jobgateway/client.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
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
using std::chrono::steady_clock;

constexpr int kMaxAttempts = 5;  // of a unary call, including the first

// The gateway gives up a read after 10 silent seconds, and a submission after
// 120.
constexpr seconds kReadLimit{30};
constexpr seconds kSendLimit{150};
constexpr seconds kWaitLimit{40};  // of a WaitJob without a timeout

// The gateway responds to a WaitJob shortly before its deadline. A further one
// would only load it.
constexpr seconds kLeastWait{1};

// A unary call.
struct UnaryCall {
  std::function<grpc::Status(Connection::Stub*, grpc::ClientContext*, v1::Job*)>
      invoke;
  std::int64_t uid;   // 0 for a submission
  nanoseconds limit;  // after which the connection counts as dead
  std::function<bool(const Error&)> may_retry;
  bool waits = false;  // over an outage of any length
};

bool MayRetry(const Error& error) { return error.action() == Action::kRetry; }

// Returns whether an error is that of an outage, over which a wait continues.
bool IsOutage(const Error& error) {
  return internal::IsTransient(error) || !internal::IsFromGateway(error);
}

// Makes a call and retries it if the error allows that.
v1::Job Unary(Attempts* attempts, const UnaryCall& unary) {
  internal::Backoff backoff;
  bool logged_in = false;
  for (int attempt = 1;; ++attempt) {
    attempts->Check();
    // In its own scope: a replaced connection closes after its last call.
    auto call = std::make_optional<internal::Call>(
        attempts->connection(), attempts->handle(), attempts->Token(),
        unary.uid);
    call->context()->set_deadline(std::chrono::system_clock::now() +
                                  attempts->Cap(unary.limit));
    v1::Job job;
    const grpc::Status status =
        unary.invoke(call->stub().get(), call->context(), &job);
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
    bool again = unary.may_retry(error);
    // A submission is not repeated then.
    const bool job_exists = unary.uid == 0 && error.uid() != 0;
    if (error.code == grpc::StatusCode::UNAUTHENTICATED && !logged_in &&
        !job_exists) {
      logged_in = true;
      again = attempts->Renew(token);
    }
    const bool is_last =
        attempt >= kMaxAttempts && !(unary.waits && IsOutage(error));
    if (!again || is_last) throw error;
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
  internal::CheckRequest(request);
  Attempts attempts(connection_, options);
  return Unary(&attempts, {[&request](auto* stub, auto* context, v1::Job* job) {
                             return stub->SendJob(context, request, job);
                           },
                           0, kSendLimit,
                           [&request](const Error& error) {
                             return internal::MaySendAgain(error, request);
                           }});
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
  internal::CheckRequest(request);
  nanoseconds limit = kWaitLimit + kReadLimit;
  CallOptions limited = options;
  auto end = Attempts::Time::max();
  if (request.has_timeout()) {
    const nanoseconds timeout = internal::ToNanoseconds(request.timeout());
    end = steady_clock::now() + timeout;
    limit = timeout + kReadLimit;
    limited.timeout = std::min(options.timeout.value_or(limit), limit);
  }
  v1::WaitJobRequest next = request;
  const auto invoke = [&](auto* stub, auto* context, v1::Job* job) {
    // The gateway rejects a negative timeout.
    if (limit > kReadLimit && request.has_timeout()) {
      internal::Set(next.mutable_timeout(), end - steady_clock::now());
    }
    return stub->WaitJob(context, next, job);
  };
  Attempts attempts(connection_, std::move(limited), end);
  while (true) {
    v1::Job job =
        Unary(&attempts, {invoke, request.uid(), limit, MayRetry, true});
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
  internal::CheckRequest(request);
  Attempts attempts(connection_, options);
  return Unary(&attempts, {[&request](auto* stub, auto* context, v1::Job* job) {
                             return stub->GetJob(context, request, job);
                           },
                           request.uid(), kReadLimit, MayRetry});
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
  return Unary(&attempts, {[&request](auto* stub, auto* context, v1::Job* job) {
                             return stub->CancelJob(context, request, job);
                           },
                           uid, kReadLimit, MayRetry});
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
