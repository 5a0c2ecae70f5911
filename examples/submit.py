#!/usr/bin/env python3
"""One prompt to one video through a running coordinator, from Python, with nothing of refrain installed.

Needs pyzmq, protobuf, and the messages as Python:
    protoc --proto_path=proto --python_out=examples proto/refrain.proto
    examples/submit.py tcp://127.0.0.1:5731 reference ["a prompt" [video.mp4]]
"""
import itertools
import sys

import zmq

import refrain_pb2 as pb

endpoint, model = sys.argv[1:3]
prompt = sys.argv[3] if len(sys.argv) > 3 else "a large red star spinning on a navy background"
output = sys.argv[4] if len(sys.argv) > 4 else "video.mp4"
socket = zmq.Context().socket(zmq.DEALER)
socket.setsockopt(zmq.LINGER, 0)
socket.setsockopt(zmq.RCVTIMEO, 300_000)  # a coordinator that says nothing for five minutes raises zmq.Again
socket.connect(endpoint)
ids = itertools.count(1)


def replies(**body):
    """Sends one request and yields its replies: one for most, one an event for a watch."""
    request = pb.Request(version=1, id=next(ids), **body)
    socket.send(request.SerializeToString())
    while True:
        reply = pb.Reply.FromString(socket.recv())
        if reply.id != request.id:
            continue  # a late note of a watch
        if reply.WhichOneof("body") == "error":
            sys.exit(f"{reply.error.field or 'refused'}: {reply.error.message}")
        yield reply


spec = pb.JobSpec(model=model, prompt=prompt, seed=7, steps=10, cache="balanced")  # without cache= every step is computed
job = next(replies(submit=pb.Submit(spec=spec))).job
for reply in replies(watch=pb.Watch(job=job.job)):
    job, progress = reply.event.job, reply.event.job.progress
    print(f"job {job.job}: {pb.JobState.Name(job.state)} {pb.Phase.Name(progress.phase)} {progress.step}/{progress.steps}")
    if reply.event.last:
        break
if job.state != pb.JOB_COMPLETED:
    sys.exit(f"job {job.job}: {job.message}")
if job.HasField("cache"):
    strip = "".join("#-++"[action] for action in job.cache.actions[:: job.cache.branches or 1])  # of the first branch
    print(f"{job.cache.policy}: {strip}  {job.cache.computed} computed, {job.cache.reused + job.cache.forecast} reused or forecast")

with open(output, "wb") as file:
    while True:
        fetch = pb.Fetch(job=job.job, file="video.mp4", offset=file.tell(), bytes=1 << 19)
        chunk = next(replies(fetch=fetch)).chunk
        file.write(chunk.data)
        if file.tell() >= chunk.total:
            break
print(output)
