#include "failure.h"

#include "google/protobuf/util/time_util.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace jobclient {

namespace {

// The domain of the gateway's ErrorInfo.
constexpr char kDomain[] = "jobgateway";

std::chrono::nanoseconds Wait(const google::protobuf::Duration& delay) {
  return std::chrono::nanoseconds(
      google::protobuf::util::TimeUtil::DurationToNanoseconds(delay));
}

}  // namespace

Failure FailureOf(const grpc::Status& status) {
  Failure failure{status.error_code(), status.error_message(), "", {}, {}};
  google::rpc::Status rich;
  // Errors from the gRPC library have no details.
  if (!rich.ParseFromString(status.error_details())) return failure;
  for (const google::protobuf::Any& detail : rich.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::RetryInfo retry;
    google::rpc::BadRequest bad;
    if (detail.UnpackTo(&info)) {
      if (info.domain() == kDomain) failure.reason = info.reason();
    } else if (detail.UnpackTo(&retry)) {
      failure.retry_after = Wait(retry.retry_delay());
    } else if (detail.UnpackTo(&bad)) {
      for (const auto& violation : bad.field_violations()) {
        failure.fields[violation.field()] = violation.description();
      }
    }
  }
  return failure;
}

Failure FailureOf(const jobgateway::v1::WatchFailure& failure) {
  const bool known = failure.code() > grpc::StatusCode::OK &&
                     failure.code() <= grpc::StatusCode::UNAUTHENTICATED;
  Failure read{known ? static_cast<grpc::StatusCode>(failure.code())
                     : grpc::StatusCode::UNKNOWN,
               failure.message(),
               failure.reason(),
               {},
               {}};
  if (failure.has_retry_delay()) read.retry_after = Wait(failure.retry_delay());
  return read;
}

Action Failure::action() const {
  if (reason == "UPSTREAM_NOT_READY" || reason == "UPSTREAM_ERROR") {
    return Action::kRetry;
  }
  if (reason == "UPSTREAM_ANSWER_TOO_LARGE") return Action::kGiveUp;
  if (is_broken() || is_load_limit()) return Action::kRetry;
  switch (code) {
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::CANCELLED:
      return Action::kRetry;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::NOT_FOUND:
    case grpc::StatusCode::ALREADY_EXISTS:
    case grpc::StatusCode::OUT_OF_RANGE:
      return Action::kFix;
    case grpc::StatusCode::UNAUTHENTICATED:
      return Action::kLogIn;
    case grpc::StatusCode::UNKNOWN:
      return Action::kLook;
    default:
      return Action::kGiveUp;
  }
}

bool Failure::is_broken() const {
  if (from_gateway()) return false;
  switch (code) {
    case grpc::StatusCode::OK:  // before the job was done: from a proxy
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::UNAVAILABLE:
      return true;
    default:
      return false;
  }
}

bool Failure::is_load_limit() const {
  return code == grpc::StatusCode::RESOURCE_EXHAUSTED &&
         retry_after.has_value();
}

}  // namespace jobclient
