// The error of a call, and the reaction to it (docs/reference/errors.md).

#ifndef JOBGATEWAY_ERROR_H_
#define JOBGATEWAY_ERROR_H_

#include <grpcpp/grpcpp.h>
#include <jobgateway/v1/job_service.pb.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace jobgateway {

// The reaction of a client to an error.
enum class Action { kRetry, kFix, kLogIn, kLook, kGiveUp };

// The reason of a stream that this client cancelled because no event arrived
// for three heartbeat intervals.
inline constexpr char kSilent[] = "SILENT";

// The reason of a call that ended because its client or its watch was closed.
inline constexpr char kClosed[] = "CLOSED";

// An invalid field of a request, from BadRequest.
struct FieldViolation {
  std::string field;
  std::string description;
};

// The error of a call. what() is a one-line message, without the token.
struct Error : public std::runtime_error {
  Error(grpc::StatusCode code, std::string message, std::string reason = "");

  // Returns the job that an error of the gateway is about, or 0.
  std::int64_t uid() const;

  // Returns the reaction to the error: by the reason if the code alone would be
  // misleading, otherwise by the code. For a submission without a request_id,
  // kRetry of an error without a reason means kLook.
  Action action() const;

  grpc::StatusCode code;
  std::string message;
  // From ErrorInfo; empty if the error does not come from the gateway.
  std::string reason;
  std::map<std::string, std::string> metadata;
  // From RetryInfo.
  std::optional<std::chrono::nanoseconds> retry_delay;
  std::vector<FieldViolation> fields;
  // The last error before the timeout of the call passed. Null if there was
  // none, and for all other errors.
  std::shared_ptr<const Error> cause;
};

// Reads the error of one watch on a WatchJobs stream.
Error ErrorOf(const v1::WatchFailure& failure);

// Returns the name that gRPC specifies for a code, such as INVALID_ARGUMENT.
std::string CodeName(grpc::StatusCode code);

}  // namespace jobgateway

#endif  // JOBGATEWAY_ERROR_H_
