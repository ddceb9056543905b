// A gateway whose responses a test defines.

#ifndef JOBGATEWAY_TEST_GATEWAY_H_
#define JOBGATEWAY_TEST_GATEWAY_H_

#include <grpcpp/grpcpp.h>
#include <jobgateway/v1/job_service.grpc.pb.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace jobgateway::testing {

using Events = grpc::ServerWriter<v1::JobEvent>;
using ManyEvents = grpc::ServerReaderWriter<v1::JobEvent, v1::WatchJobsRequest>;

// Serves on a free port of 127.0.0.1. Set the functions before the first call.
class Gateway : public v1::JobService::Service {
 public:
  explicit Gateway(std::shared_ptr<grpc::ServerCredentials> credentials =
                       grpc::InsecureServerCredentials());
  ~Gateway() override;

  const std::string& target() const { return target_; }

  std::function<grpc::Status(grpc::ServerContext*, v1::Job*)> get;
  std::function<grpc::Status(const v1::WaitJobRequest&, v1::Job*)> wait;
  std::function<grpc::Status(v1::Job*)> send;
  std::function<grpc::Status(grpc::ServerContext*, const v1::RunJobRequest&,
                             Events*)>
      run;
  std::function<grpc::Status(grpc::ServerContext*, const v1::WatchJobRequest&,
                             Events*)>
      watch;
  std::function<grpc::Status(grpc::ServerContext*, ManyEvents*)> watch_all;

 private:
  grpc::Status GetJob(grpc::ServerContext* context, const v1::GetJobRequest*,
                      v1::Job* job) override {
    return get(context, job);
  }
  grpc::Status WaitJob(grpc::ServerContext*, const v1::WaitJobRequest* request,
                       v1::Job* job) override {
    return wait(*request, job);
  }
  grpc::Status SendJob(grpc::ServerContext*, const v1::SendJobRequest*,
                       v1::Job* job) override {
    return send(job);
  }
  grpc::Status RunJob(grpc::ServerContext* context,
                      const v1::RunJobRequest* request,
                      Events* events) override {
    return run(context, *request, events);
  }
  grpc::Status WatchJob(grpc::ServerContext* context,
                        const v1::WatchJobRequest* request,
                        Events* events) override {
    return watch(context, *request, events);
  }
  grpc::Status WatchJobs(grpc::ServerContext* context,
                         ManyEvents* events) override {
    return watch_all(context, events);
  }

  std::string target_;
  std::unique_ptr<grpc::Server> server_;
};

// Returns a state of job 5, with a resume token.
v1::JobEvent State(bool done);

// Returns an error of the gateway. `uid`: the job in its metadata, or "".
// `retry_delay`: in its RetryInfo, or 0. `violations`: those of one field.
grpc::Status GatewayError(grpc::StatusCode code, const std::string& reason,
                          const std::string& uid = "",
                          std::chrono::seconds retry_delay = {},
                          const std::vector<std::string>& violations = {});

// Returns the value of the metadata of a call, or "".
std::string Metadata(const grpc::ServerContext& context,
                     const std::string& name);

// Blocks until the client cancels the call.
void AwaitCancellation(const grpc::ServerContext& context);

}  // namespace jobgateway::testing

#endif  // JOBGATEWAY_TEST_GATEWAY_H_
