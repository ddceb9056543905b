// A connection to the gateway, with a credential.

#ifndef JOBCLIENT_CONNECTION_H_
#define JOBCLIENT_CONNECTION_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "jobgateway/v1/job_service.grpc.pb.h"
#include "rules.h"

namespace jobclient {

// The channel for the calls, and the token that they carry. Not thread-safe.
class Connection {
 public:
  // Connects at the first call. `fresh_token` logs in again and returns the
  // new token.
  Connection(std::string target, std::string service_config, std::string token,
             std::function<std::string()> fresh_token);

  jobgateway::v1::JobService::Stub& stub() { return *stub_; }

  // Adds the token to a call.
  void Authorize(grpc::ClientContext* context) const;

  // Replaces the token with a fresh one.
  void LogIn() { token_ = fresh_token_(); }

  // Waits, and prepares the next stream after a failure.
  void Resume(const Resumption& resumption);

 private:
  // Uses a new connection for all further calls. The old one closes after its
  // last call.
  void Reconnect();

  const std::string target_;
  const std::string service_config_;
  const std::function<std::string()> fresh_token_;
  std::string token_;
  std::unique_ptr<jobgateway::v1::JobService::Stub> stub_;
};

// Adds the uid of the job that a call is about. Proxies can route by it, so
// that all watches of a job share the polls of one replica.
void AddJobUid(std::int64_t uid, grpc::ClientContext* context);

}  // namespace jobclient

#endif  // JOBCLIENT_CONNECTION_H_
