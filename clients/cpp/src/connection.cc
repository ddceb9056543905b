#include "connection.h"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <stdexcept>
#include <string_view>
#include <utility>

namespace jobgateway::internal {

namespace {

constexpr char kUserAgent[] = "jobgateway-cpp/" JOBGATEWAY_CLIENT_VERSION;

// gRPC would resolve such a target without end.
std::string CheckedTarget(std::string target) {
  std::string scheme = target.substr(0, target.find("//"));
  std::transform(scheme.begin(), scheme.end(), scheme.begin(),
                 [](unsigned char byte) { return std::tolower(byte); });
  const bool blank = std::any_of(target.begin(), target.end(), [](char byte) {
    return std::isspace(static_cast<unsigned char>(byte)) != 0;
  });
  if (target.empty() || blank || scheme == "http:" || scheme == "https:") {
    throw std::invalid_argument("target: must be HOST:PORT (got \"" + target +
                                "\")");
  }
  return target;
}

void SetDefault(grpc::ChannelArguments* arguments, const char* key, int value) {
  const grpc_channel_args set = arguments->c_channel_args();
  const bool is_set = std::any_of(
      set.args, set.args + set.num_args, [key](const grpc_arg& argument) {
        return std::string_view(argument.key) == key;
      });
  if (!is_set) arguments->SetInt(key, value);
}

}  // namespace

Connection::Connection(std::string target, Options options)
    : target_(CheckedTarget(std::move(target))),
      options_(std::move(options)),
      stub_(Connect()),
      credential_(options_.token, options_.login) {}

std::shared_ptr<Connection::Stub> Connection::Connect() const {
  grpc::ChannelArguments arguments = options_.arguments;
  arguments.SetUserAgentPrefix(kUserAgent);
  if (!options_.service_config.empty()) {
    arguments.SetServiceConfigJSON(options_.service_config);
  }
  SetDefault(&arguments, GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  SetDefault(&arguments, GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  // Without it, gRPC waits a minute for the reply to a ping, whatever the
  // timeout above. grpc++ has no constant for it.
  SetDefault(&arguments, "grpc.http2.ping_timeout_ms", 10'000);
  SetDefault(&arguments, GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Without it, a new channel would share the connection of the old one.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto channel = grpc::CreateCustomChannel(
      target_,
      options_.credentials ? options_.credentials
                           : grpc::InsecureChannelCredentials(),
      arguments);
  // A new channel is idle, unless gRPC rejects its arguments. Then all calls
  // would fail.
  if (channel->GetState(false) == GRPC_CHANNEL_TRANSIENT_FAILURE) {
    throw std::invalid_argument(
        "target or service config: gRPC rejects one of them, and its log says "
        "why");
  }
  return v1::JobService::NewStub(channel);
}

void Connection::Reconnect(const std::shared_ptr<Stub>& used) {
  const std::lock_guard lock(mutex_);
  if (stub_ == used) stub_ = Connect();
}

void Connection::Sleep(std::chrono::nanoseconds wait, const Handle& handle) {
  std::unique_lock lock(mutex_);
  closing_.wait_for(lock, wait, [&] { return closed_ || handle.closed; });
}

void Connection::CheckOpen(const Handle& handle) {
  const std::lock_guard lock(mutex_);
  CheckOpenLocked(handle);
}

void Connection::CheckOpenLocked(const Handle& handle) const {
  if (handle.closed) {
    throw Error(grpc::StatusCode::CANCELLED, "the watch was closed", kClosed);
  }
  if (closed_) {
    throw Error(grpc::StatusCode::CANCELLED, "the client was closed", kClosed);
  }
}

void Connection::Close() {
  credential_.Close();
  const std::lock_guard lock(mutex_);
  closed_ = true;
  closing_.notify_all();
  for (grpc::ClientContext* call : calls_) call->TryCancel();
}

void Connection::Close(Handle* handle) {
  {
    const std::lock_guard lock(mutex_);
    handle->closed = true;
    closing_.notify_all();
    if (handle->call != nullptr) handle->call->TryCancel();
  }
  credential_.Wake();
}

Call::Call(std::shared_ptr<Connection> connection,
           std::shared_ptr<Handle> handle, std::string token, std::int64_t uid)
    : connection_(std::move(connection)),
      handle_(std::move(handle)),
      token_(std::move(token)) {
  if (!token_.empty()) {
    context_.AddMetadata("authorization", "Bearer " + token_);
  }
  // Proxies can route by it, so that all watches of a job share the polls of
  // one replica.
  if (uid != 0) context_.AddMetadata("x-job-uid", std::to_string(uid));
  const std::lock_guard lock(connection_->mutex_);
  connection_->CheckOpenLocked(*handle_);
  stub_ = connection_->stub_;
  connection_->calls_.insert(&context_);
  handle_->call = &context_;
}

Call::~Call() {
  const std::lock_guard lock(connection_->mutex_);
  connection_->calls_.erase(&context_);
  handle_->call = nullptr;
}

bool Call::replayed() const {
  const auto& trailers = context_.GetServerTrailingMetadata();
  const auto found = trailers.find("jobgateway-replayed");
  return found != trailers.end() && found->second == "true";
}

}  // namespace jobgateway::internal
