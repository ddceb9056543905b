package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"

	pb "jobclient/gen/jobgateway/v1"
	"jobclient/jobs"
)

func main() {
	client, err := jobs.NewClient("127.0.0.1:50051", jobs.Options{Token: "demo-token"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	request := &pb.SendJobRequest{WorkspaceId: "1", EntityId: 7, RequestId: rand.Text(), MethodName: new("succeed")}
	request.Input = &pb.SendJobRequest_ParamsJson{ParamsJson: []byte(`{"duration": 1, "steps": 2}`)}
	print := func(job *pb.Job) {
		if progress := job.Progress; progress != nil {
			fmt.Printf("%.1f%% %s\n", progress.GetPercentage(), progress.Message)
		}
	}
	end, err := client.Run(context.Background(), &pb.RunJobRequest{Request: request}, jobs.OnProgress(print)).Finish()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(end.Job.GetStatus(), string(end.Result))
}
