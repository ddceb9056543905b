package jobgateway.client;

import com.google.protobuf.ByteString;
import jobgateway.v1.Job;

/**
 * A job that has ended.
 *
 * @param job its last state
 * @param result JSON; empty if there is no result, or if it was not requested
 */
public record Finished(Job job, ByteString result) {}
