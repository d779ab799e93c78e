"""`POST /v1/responses`: OpenAI's Responses API, of which nothing is kept.

The fields and events are those of OpenAI's API reference for responses. A client that goes on with
a conversation sends all of it, so an answer's items come back as input.
"""

from quart import Response

from llmstream_cli.api import Chunk
from llmstream_cli.prompts.messages import ToolCallDelta
from llmstream_cli.server.context import server_context
from llmstream_cli.server.dialects import common, openai_common
from llmstream_cli.server.dialects.openai_responses.events import ResponsesEncoder
from llmstream_cli.server.dialects.openai_responses.request import ResponsesRequest
from llmstream_cli.server.respond import collect, count_tokens, stream


@openai_common.DIALECT.route(
    "/v1/responses",
    "Answer a conversation, as OpenAI's Responses API does",
    "Nothing is kept. With `stream`, the answer comes as server-sent events.",
    request=ResponsesRequest,
    streamed=ResponsesEncoder.content_type,
)
async def responses(body: ResponsesRequest) -> Response:
    served = server_context().models.find(body.model)
    defaults = served.sampling_for(body.thinks)
    request = await common.off_the_loop(body.generation_request, defaults)
    encoder = ResponsesEncoder(body, served, request)
    if body.stream:
        return await stream(served, [request], encoder)
    fields = encoder.logprob_fields if encoder.with_logprobs else None
    (answer,) = await collect(served, [request], fields)
    calls = enumerate(answer.tool_calls)
    chunk = Chunk(
        answer.text,
        finish_reason=answer.finish_reason,
        usage=answer.usage,
        reasoning=answer.reasoning,
        tool_calls=tuple(ToolCallDelta(index, one.name, one.arguments) for index, one in calls),
    )
    encoder.logprobs = answer.logprobs["logprobs"]
    encoder.encode(0, chunk)
    encoder.end()
    return common.json_response(encoder.response)


@openai_common.DIALECT.route(
    "/v1/responses/input_tokens",
    "Count the tokens of a prompt, as OpenAI's Responses API does",
    "Takes the body of `/v1/responses`; nothing is generated.",
    request=ResponsesRequest,
)
async def input_tokens(body: ResponsesRequest) -> Response:
    served = server_context().models.find(body.model)
    defaults = served.sampling_for(body.thinks)
    request = await common.off_the_loop(body.generation_request, defaults)
    count = await count_tokens(served, request)
    return common.json_response({"object": "response.input_tokens", "input_tokens": count})
