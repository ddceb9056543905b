package jobs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	pb "jobclient/gen/jobgateway/v1"
)

// Result holds the bytes of a result that arrives in chunks.
type Result []byte

// Take adds a chunk. It first cuts the result to the chunk's offset, because chunks may start again at 0 after a resume.
func (r *Result) Take(chunk *pb.ContentChunk) {
	*r = append((*r)[:min(chunk.GetOffset(), int64(len(*r)))], chunk.GetData()...)
}

// Verify returns an error if the bytes of the result of a done job, in chunks or in the job itself, are not those that
// the gateway announced. A Struct has no hash.
func (r Result) Verify(job *pb.Job) error {
	if job.GetContentSize() == 0 || job.GetContent() != nil {
		return nil
	}
	data := job.GetContentJson()
	if job.GetContentOmitted() {
		data = r
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != job.GetContentSha256() {
		return fmt.Errorf("the result of job %d was damaged on its way: its SHA-256 is wrong", job.GetUid())
	}
	return nil
}
