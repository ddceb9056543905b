#include "errors.h"

#include <charconv>
#include <utility>

#include "duration.h"
#include "google/rpc/code.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace jobgateway {

namespace {

// The domain of the gateway's ErrorInfo.
constexpr char kDomain[] = "jobgateway";

std::string Line(grpc::StatusCode code, const std::string& message,
                 const std::string& reason) {
  std::string line = message + " [" + CodeName(code);
  if (!reason.empty()) line += ", " + reason;
  return line + "]";
}

}  // namespace

std::string CodeName(grpc::StatusCode code) {
  return google::rpc::Code_Name(static_cast<google::rpc::Code>(code));
}

Error::Error(grpc::StatusCode code, std::string message, std::string reason)
    : std::runtime_error(Line(code, message, reason)),
      code(code),
      message(std::move(message)),
      reason(std::move(reason)) {}

std::int64_t Error::uid() const {
  std::int64_t uid = 0;
  const auto found = metadata.find("uid");
  if (found == metadata.end()) return 0;
  const std::string& text = found->second;
  std::from_chars(text.data(), text.data() + text.size(), uid);
  return uid;
}

Action Error::action() const {
  if (reason == "UPSTREAM_NOT_READY" || reason == "UPSTREAM_ERROR") {
    return Action::kRetry;
  }
  if (reason == "UPSTREAM_ANSWER_TOO_LARGE" || reason == kClosed) {
    return Action::kGiveUp;
  }
  if (internal::IsBroken(*this) || internal::IsLoadLimit(*this)) {
    return Action::kRetry;
  }
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

Error ErrorOf(const v1::WatchFailure& failure) {
  const bool known = failure.code() > grpc::StatusCode::OK &&
                     failure.code() <= grpc::StatusCode::UNAUTHENTICATED;
  Error error(known ? static_cast<grpc::StatusCode>(failure.code())
                    : grpc::StatusCode::UNKNOWN,
              failure.message(), failure.reason());
  error.metadata = {failure.metadata().begin(), failure.metadata().end()};
  if (failure.has_retry_delay()) {
    error.retry_delay = internal::ToNanoseconds(failure.retry_delay());
  }
  return error;
}

namespace internal {

Error ErrorOf(const grpc::Status& status) {
  if (status.ok()) {
    return {grpc::StatusCode::OK,
            "the stream ended before the job was done: a proxy ended it"};
  }
  google::rpc::Status rich;
  // Errors from the gRPC library have no details.
  if (!rich.ParseFromString(status.error_details())) rich.Clear();
  std::string reason;
  std::map<std::string, std::string> metadata;
  std::vector<FieldViolation> fields;
  std::optional<std::chrono::nanoseconds> retry_delay;
  for (const google::protobuf::Any& detail : rich.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::RetryInfo retry;
    google::rpc::BadRequest bad;
    if (detail.UnpackTo(&info)) {
      if (info.domain() != kDomain) continue;
      reason = info.reason();
      metadata = {info.metadata().begin(), info.metadata().end()};
    } else if (detail.UnpackTo(&retry)) {
      retry_delay = ToNanoseconds(retry.retry_delay());
    } else if (detail.UnpackTo(&bad)) {
      for (const auto& violation : bad.field_violations()) {
        fields.push_back({violation.field(), violation.description()});
      }
    }
  }
  Error error(status.error_code(), status.error_message(), std::move(reason));
  error.metadata = std::move(metadata);
  error.fields = std::move(fields);
  error.retry_delay = retry_delay;
  return error;
}

bool IsFromGateway(const Error& error) {
  return !error.reason.empty() && error.reason != kSilent &&
         error.reason != kClosed;
}

bool IsBroken(const Error& error) {
  if (IsFromGateway(error)) return false;
  switch (error.code) {
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

bool IsLoadLimit(const Error& error) {
  return error.code == grpc::StatusCode::RESOURCE_EXHAUSTED &&
         error.retry_delay.has_value();
}

bool IsTransient(const Error& error) {
  return error.code == grpc::StatusCode::UNAVAILABLE || IsLoadLimit(error);
}

bool MaySendAgain(const Error& error, const v1::SendJobRequest& request) {
  const bool nothing_sent =
      IsFromGateway(error) &&
      (error.code == grpc::StatusCode::UNAVAILABLE ||
       error.code == grpc::StatusCode::RESOURCE_EXHAUSTED);
  return error.action() == Action::kRetry && error.uid() == 0 &&
         (nothing_sent || !request.request_id().empty());
}

void CheckRequest(const google::protobuf::Message& request) {
  const std::unique_ptr<google::protobuf::Message> read(request.New());
  if (read->ParseFromString(request.SerializeAsString())) return;
  throw Error(grpc::StatusCode::INVALID_ARGUMENT,
              "the request cannot be sent: it has a string that is not UTF-8, "
              "or is nested deeper than 100 levels");
}

bool WantsNewConnection(const Error& error) {
  return !IsFromGateway(error) || error.reason == "DRAINING";
}

}  // namespace internal

}  // namespace jobgateway
