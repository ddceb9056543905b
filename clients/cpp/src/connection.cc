#include "connection.h"

#include <thread>
#include <utility>

namespace jobclient {

Connection::Connection(std::string target, std::string service_config,
                       std::string token,
                       std::function<std::string()> fresh_token)
    : target_(std::move(target)),
      service_config_(std::move(service_config)),
      fresh_token_(std::move(fresh_token)),
      token_(std::move(token)) {
  Reconnect();
}

void Connection::Authorize(grpc::ClientContext* context) const {
  context->AddMetadata("authorization", "Bearer " + token_);
}

void AddJobUid(std::int64_t uid, grpc::ClientContext* context) {
  context->AddMetadata("x-job-uid", std::to_string(uid));
}

void Connection::Resume(const Resumption& resumption) {
  std::this_thread::sleep_for(resumption.wait);
  if (resumption.fresh_token) LogIn();
  if (resumption.new_connection) Reconnect();
}

void Connection::Reconnect() {
  grpc::ChannelArguments arguments;
  arguments.SetServiceConfigJSON(service_config_);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  // Without it, gRPC waits a minute for the reply to a ping, whatever the
  // timeout above. grpc++ has no constant for it.
  arguments.SetInt("grpc.http2.ping_timeout_ms", 10'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Without it, a new channel would share the connection of the old one.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  stub_ = jobgateway::v1::JobService::NewStub(grpc::CreateCustomChannel(
      target_, grpc::InsecureChannelCredentials(), arguments));
}

}  // namespace jobclient
