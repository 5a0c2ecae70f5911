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

STAR = "a large red star spinning on a navy background"
ids = itertools.count(1)


def connect(endpoint):
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, 300_000)  # a coordinator that says nothing for five minutes raises zmq.Again
    socket.connect(endpoint)
    return socket


def replies(socket, **body):
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


def make(socket, **spec):
    """Has a video made and shows how it goes; the job as it ended."""
    job = next(replies(socket, submit=pb.Submit(spec=pb.JobSpec(**spec)))).job
    for reply in replies(socket, watch=pb.Watch(job=job.job)):
        job, progress = reply.event.job, reply.event.job.progress
        print(f"job {job.job}: {pb.JobState.Name(job.state)} {pb.Phase.Name(progress.phase)} {progress.step}/{progress.steps}")
        if reply.event.last:
            break
    if job.state != pb.JOB_COMPLETED:
        sys.exit(f"job {job.job}: {job.message}")
    return job


def fetch(socket, job, output):
    with open(output, "wb") as file:
        while True:
            part = pb.Fetch(job=job.job, file="video.mp4", offset=file.tell(), bytes=1 << 19)
            chunk = next(replies(socket, fetch=part)).chunk
            file.write(chunk.data)
            if file.tell() >= chunk.total:
                break
    print(output)


def main(endpoint, model, prompt=STAR, output="video.mp4"):
    socket = connect(endpoint)
    job = make(socket, model=model, prompt=prompt, seed=7, steps=10, cache="balanced")  # without cache= every step is computed
    if job.HasField("cache"):
        strip = "".join("#-++"[action] for action in job.cache.actions[:: job.cache.branches or 1])  # of the first branch
        print(f"{job.cache.policy}: {strip}  {job.cache.computed} computed, {job.cache.reused + job.cache.forecast} reused or forecast")
    fetch(socket, job, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
