// The meaning of the errors of calls. No input or output.

#ifndef JOBGATEWAY_SRC_ERRORS_H_
#define JOBGATEWAY_SRC_ERRORS_H_

#include <grpcpp/grpcpp.h>
#include <jobgateway/error.h>
#include <jobgateway/v1/job_service.pb.h>

namespace jobgateway::internal {

// Reads the error of a call and its details. OK is an error of a stream that
// ends before the job.
Error ErrorOf(const grpc::Status& status);

// Returns whether the gateway sent the error, not a library or a proxy.
bool IsFromGateway(const Error& error);

// Returns whether the call was broken on its way: another one may succeed.
bool IsBroken(const Error& error);

// Returns whether this is a limit of rate or load. A limit of size names no
// wait.
bool IsLoadLimit(const Error& error);

// Returns whether this is an outage or a limit of load: a watch continues after
// a wait.
bool IsTransient(const Error& error);

// Returns whether a failed submission may be repeated: the gateway guarantees
// that no job was created, or its request_id prevents a second one.
bool MaySendAgain(const Error& error, const v1::SendJobRequest& request);

// Returns whether the connection may be dead, or lead to an instance that shuts
// down. A new connection does not wait for the backoff of the old one, which
// may be two minutes.
bool WantsNewConnection(const Error& error);

// Throws an INVALID_ARGUMENT if the gateway could not read the request: gRPC
// would report an INTERNAL, as if the connection had a problem.
void CheckRequest(const google::protobuf::Message& request);

}  // namespace jobgateway::internal

#endif  // JOBGATEWAY_SRC_ERRORS_H_
