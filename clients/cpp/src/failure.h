// What an error of a call says, and what to do about it
// (docs/reference/errors.md).

#ifndef JOBCLIENT_FAILURE_H_
#define JOBCLIENT_FAILURE_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <map>
#include <optional>
#include <string>

namespace jobclient {

// What a client does about an error.
enum class Action { kRetry, kMend, kLogIn, kLook, kGiveUp };

// Why a call failed.
struct Failure {
  grpc::StatusCode code;
  std::string message;
  // That of ErrorInfo; empty if the error is not the gateway's.
  std::string reason;
  // That of RetryInfo; none where no wait is known.
  std::optional<std::chrono::nanoseconds> retry_after;
  // What is wrong with each field at fault.
  std::map<std::string, std::string> fields;

  // Decides by the reason if its code would say otherwise, else by the code,
  // also that of a reason not known. kRetry of a submission is safe only with
  // a request_id: without one, kRetry of an error without reason means kLook.
  Action action() const;
};

// Reads the error of a call.
Failure FailureOf(const grpc::Status& status);

}  // namespace jobclient

#endif  // JOBCLIENT_FAILURE_H_
