// The error of a call, and the reaction to it (docs/reference/errors.md).

#ifndef JOBCLIENT_FAILURE_H_
#define JOBCLIENT_FAILURE_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <map>
#include <optional>
#include <string>

namespace jobclient {

// The reaction of a client to an error.
enum class Action { kRetry, kFix, kLogIn, kLook, kGiveUp };

// The error of a call, with its details.
struct Failure {
  grpc::StatusCode code;
  std::string message;
  // From ErrorInfo; empty if the error does not come from the gateway.
  std::string reason;
  // From RetryInfo.
  std::optional<std::chrono::nanoseconds> retry_after;
  // From BadRequest: invalid field to description.
  std::map<std::string, std::string> fields;

  // Returns the reaction to the error: by the reason if the code alone would be
  // misleading, otherwise by the code. Retry a submission only if it has a
  // request_id. Without one, kRetry of an error without a reason means kLook.
  Action action() const;
};

// Reads the error of a call and its details.
Failure FailureOf(const grpc::Status& status);

}  // namespace jobclient

#endif  // JOBCLIENT_FAILURE_H_
