// A connection to the gateway, and the credential that goes over it.

#ifndef JOBCLIENT_CONNECTION_H_
#define JOBCLIENT_CONNECTION_H_

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>

#include "jobgateway/v1/job_service.grpc.pb.h"

namespace jobclient {

// Where calls go to, and as whom. For one thread.
class Connection {
 public:
  // Connects at the first call; `fresh_token` logs in again.
  Connection(std::string target, std::string service_config, std::string token,
             std::function<std::string()> fresh_token);

  jobgateway::v1::JobService::Stub& stub() { return *stub_; }

  // Gives the token to a call.
  void Authorize(grpc::ClientContext* context) const;

  // Takes a fresh token.
  void LogIn() { token_ = fresh_token_(); }

  // Goes on over a new connection. The old one is closed with its last call.
  void Renew();

 private:
  const std::string target_;
  const std::string service_config_;
  const std::function<std::string()> fresh_token_;
  std::string token_;
  std::unique_ptr<jobgateway::v1::JobService::Stub> stub_;
};

}  // namespace jobclient

#endif  // JOBCLIENT_CONNECTION_H_
