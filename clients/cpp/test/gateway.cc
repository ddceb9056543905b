#include "gateway.h"

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>

#include <chrono>
#include <thread>

namespace jobgateway::testing {

Gateway::Gateway(std::shared_ptr<grpc::ServerCredentials> credentials) {
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", std::move(credentials), &port);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  target_ = "127.0.0.1:" + std::to_string(port);
}

Gateway::~Gateway() { server_->Shutdown(std::chrono::system_clock::now()); }

v1::JobEvent State(bool done) {
  v1::JobEvent event;
  event.set_uid(5);
  event.set_resume_token("token-1");
  event.mutable_job()->set_uid(5);
  event.mutable_job()->set_done(done);
  event.mutable_job()->set_status(done ? v1::JOB_STATUS_SUCCESS
                                       : v1::JOB_STATUS_RUNNING);
  return event;
}

grpc::Status GatewayError(grpc::StatusCode code, const std::string& reason,
                          const std::string& uid,
                          std::chrono::seconds retry_delay,
                          const std::vector<std::string>& violations) {
  google::rpc::ErrorInfo info;
  info.set_domain("jobgateway");
  info.set_reason(reason);
  if (!uid.empty()) (*info.mutable_metadata())["uid"] = uid;
  google::rpc::Status details;
  details.set_code(code);
  details.add_details()->PackFrom(info);
  if (retry_delay.count() != 0) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(retry_delay.count());
    details.add_details()->PackFrom(retry);
  }
  if (!violations.empty()) {
    google::rpc::BadRequest bad;
    for (const std::string& violation : violations) {
      bad.add_field_violations()->set_field("field");
      bad.mutable_field_violations()->rbegin()->set_description(violation);
    }
    details.add_details()->PackFrom(bad);
  }
  return {code, "scripted", details.SerializeAsString()};
}

std::string Metadata(const grpc::ServerContext& context,
                     const std::string& name) {
  const auto found = context.client_metadata().find(name);
  if (found == context.client_metadata().end()) return "";
  return {found->second.data(), found->second.size()};
}

void AwaitCancellation(const grpc::ServerContext& context) {
  // The synchronous API of grpc++ has no other way.
  while (!context.IsCancelled()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace jobgateway::testing
