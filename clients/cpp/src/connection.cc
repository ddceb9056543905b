#include "connection.h"

#include <utility>

namespace jobgateway::internal {

Connection::Connection(std::string target, Options options)
    : target_(std::move(target)),
      options_(std::move(options)),
      stub_(Connect()),
      token_known_(!options_.login),
      token_(options_.token) {}

std::shared_ptr<Connection::Stub> Connection::Connect() const {
  grpc::ChannelArguments arguments = options_.arguments;
  if (!options_.service_config.empty()) {
    arguments.SetServiceConfigJSON(options_.service_config);
  }
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  // Without it, gRPC waits a minute for the reply to a ping, whatever the
  // timeout above. grpc++ has no constant for it.
  arguments.SetInt("grpc.http2.ping_timeout_ms", 10'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Without it, a new channel would share the connection of the old one.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return v1::JobService::NewStub(grpc::CreateCustomChannel(
      target_,
      options_.credentials ? options_.credentials
                           : grpc::InsecureChannelCredentials(),
      arguments));
}

void Connection::Reconnect(const std::shared_ptr<Stub>& used) {
  const std::lock_guard lock(mutex_);
  if (stub_ == used) stub_ = Connect();
}

std::string Connection::Token() {
  const std::lock_guard lock(token_mutex_);
  if (!token_known_) {
    token_ = options_.login();
    token_known_ = true;
  }
  return token_;
}

bool Connection::Renew(const std::string& used) {
  const std::lock_guard lock(token_mutex_);
  if (token_ != used) return true;
  if (!options_.login) return false;
  std::string token = options_.login();
  if (token.empty()) return false;
  token_ = std::move(token);
  return true;
}

void Connection::Sleep(std::chrono::nanoseconds wait) {
  std::unique_lock lock(mutex_);
  closing_.wait_for(lock, wait, [this] { return closed_; });
}

void Connection::CheckOpen() {
  const std::lock_guard lock(mutex_);
  if (closed_) {
    throw Error(grpc::StatusCode::CANCELLED, "the client was closed");
  }
}

void Connection::Close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  closing_.notify_all();
  for (grpc::ClientContext* call : calls_) call->TryCancel();
}

Call::Call(std::shared_ptr<Connection> connection, std::int64_t uid)
    : connection_(std::move(connection)), token_(connection_->Token()) {
  if (!token_.empty()) {
    context_.AddMetadata("authorization", "Bearer " + token_);
  }
  // Proxies can route by it, so that all watches of a job share the polls of
  // one replica.
  if (uid != 0) context_.AddMetadata("x-job-uid", std::to_string(uid));
  connection_->CheckOpen();
  const std::lock_guard lock(connection_->mutex_);
  stub_ = connection_->stub_;
  connection_->calls_.insert(&context_);
  // Close() may have been called since the check.
  if (connection_->closed_) context_.TryCancel();
}

Call::~Call() {
  const std::lock_guard lock(connection_->mutex_);
  connection_->calls_.erase(&context_);
}

bool Call::replayed() const {
  const auto& trailers = context_.GetServerTrailingMetadata();
  const auto found = trailers.find("jobgateway-replayed");
  return found != trailers.end() && found->second == "true";
}

}  // namespace jobgateway::internal
