#include "failure.h"

#include "google/protobuf/util/time_util.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace jobclient {

using google::protobuf::util::TimeUtil;

namespace {

// The domain of the gateway's ErrorInfo.
constexpr char kDomain[] = "jobgateway";

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
      failure.retry_after = std::chrono::nanoseconds(
          TimeUtil::DurationToNanoseconds(retry.retry_delay()));
    } else if (detail.UnpackTo(&bad)) {
      for (const auto& violation : bad.field_violations()) {
        failure.fields[violation.field()] = violation.description();
      }
    }
  }
  return failure;
}

Action Failure::action() const {
  if (reason == "UPSTREAM_NOT_READY" || reason == "UPSTREAM_ERROR") {
    return Action::kRetry;
  }
  if (reason == "UPSTREAM_ANSWER_TOO_LARGE") return Action::kGiveUp;
  if (reason.empty() && (code == grpc::StatusCode::INTERNAL ||
                         code == grpc::StatusCode::UNKNOWN)) {
    // From a proxy, or the gateway died: another call may work.
    return Action::kRetry;
  }
  switch (code) {
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::CANCELLED:
      return Action::kRetry;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      // Limits of rate and load have a RetryInfo, limits of size do not.
      return retry_after ? Action::kRetry : Action::kFix;
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::NOT_FOUND:
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

}  // namespace jobclient
