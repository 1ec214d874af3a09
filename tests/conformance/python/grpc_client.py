"""A gRPC client that knows nothing of Atoll but an address: everything else is asked of server
reflection. No generated code, no compiled protocol files."""

import collections

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

SERVICE = "atoll.orchestrator.v1.OrchestratorService"
# Every connection of its own, and no retry behind the test's back.
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
CALL_LIMIT_S = 60


class Refused(Exception):
    """An error answer, with its details by message name."""

    def __init__(self, call, error, details):
        super().__init__(f"{call}: {error.code().name}: {error.details()} {details}")
        self.code = error.code()
        self.message = error.details()
        self.details = details


class Orchestrator:
    def __init__(self, address, metadata=()):
        self.channel = grpc.insecure_channel(address, options=OPTIONS)
        self.metadata = list(metadata)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)
        self.service = self.pool.FindServiceByName(SERVICE)
        # What was called and what was answered, for the test that asks whether that was all.
        self.seen = collections.defaultdict(set)

    def acting_as(self, *metadata):
        """The same client with other credentials."""
        other = object.__new__(Orchestrator)
        other.__dict__ = {**self.__dict__, "metadata": list(metadata)}
        return other

    def close(self):
        self.channel.close()

    def methods(self):
        return {method.name: method for method in self.service.methods}

    def message(self, name, fields=None):
        """A message of any type the server describes."""
        made = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))()
        return json_format.ParseDict(fields or {}, made)

    def start(self, name, fields=None, timeout=CALL_LIMIT_S, service=SERVICE):
        """Begins a call; its result is awaited by `result()`, or it is iterated over."""
        method = self.pool.FindServiceByName(service).FindMethodByName(name)
        answer = message_factory.GetMessageClass(method.output_type)
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        call = kind(
            f"/{service}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        request = fields
        if fields is None or isinstance(fields, dict):
            request = self.message(method.input_type.full_name, fields)
        begin = call if method.server_streaming else call.future
        return begin(request, metadata=self.metadata, timeout=timeout)

    def call(self, name, fields=None, timeout=CALL_LIMIT_S, service=SERVICE):
        """The answer of a call that answers once; of a stream, its first message."""
        method = self.pool.FindServiceByName(service).FindMethodByName(name)
        started = self.start(name, fields, timeout, service)
        try:
            if method.server_streaming:
                answer = next(iter(started))
                started.cancel()
            else:
                answer = started.result()
        except grpc.RpcError as error:
            raise self.refused(name, error) from None
        self.seen[name].add(grpc.StatusCode.OK)
        return answer

    def refused(self, name, error):
        self.seen[name].add(error.code())
        details = {}
        trailers = dict(error.trailing_metadata() or ())
        status = trailers.get("grpc-status-details-bin")
        if status:
            status = self.message("google.rpc.Status").FromString(status)
            assert status.code == error.code().value[0]
            assert status.message == error.details()
            for packed in status.details:
                name_of = packed.type_url.rpartition("/")[2]
                details[name_of] = self.message(name_of).FromString(packed.value)
        return Refused(name, error, details)

    def refusal(self, name, fields=None, **options):
        """The error of a call that must not succeed."""
        try:
            answer = self.call(name, fields, **options)
        except Refused as refused:
            return refused
        raise AssertionError(f"{name} succeeded: {answer}")
