// The error of a call, and the reaction to it (docs/reference/errors.md).

#ifndef JOBCLIENT_FAILURE_H_
#define JOBCLIENT_FAILURE_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <map>
#include <optional>
#include <string>

#include "jobgateway/v1/job_service.pb.h"

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
  // This client cancelled the call because no event arrived in time.
  bool silent = false;

  // Returns the reaction to the error: by the reason if the code alone would be
  // misleading, otherwise by the code. Retry a submission only if it has a
  // request_id. Without one, kRetry of an error without a reason means kLook.
  Action action() const;

  // Returns whether the gateway sent the error, not a library or a proxy.
  bool from_gateway() const { return !reason.empty(); }

  // Returns whether the call was broken on its way: another one may succeed.
  bool is_broken() const;

  // Returns whether this is a limit of rate or load. A limit of size names no
  // wait.
  bool is_load_limit() const;
};

// Reads the error of a call and its details.
Failure FailureOf(const grpc::Status& status);

// Reads the error of one watch on a WatchJobs stream.
Failure FailureOf(const jobgateway::v1::WatchFailure& failure);

}  // namespace jobclient

#endif  // JOBCLIENT_FAILURE_H_
