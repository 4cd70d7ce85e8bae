"""What the official conformance suite expects a server to have: its tools, resources, prompts and completion.

Loaded by the server under test (`mcpd serve --tools tests/conformance/fixture.py`); `test_conformance.py` starts it.
Names, texts and schemas are the suite's. It imports what any author may import, the names of `mcpd.__all__`, so it also
shows that these suffice. Deliberately not: an example of how to write tools; the README has one.

Laws: the same functions serve both eras; nothing here knows which one is calling.

Sources: the scenarios of @modelcontextprotocol/conformance 0.2.0-alpha.12.
"""

from __future__ import annotations

import io
import json
import wave
from base64 import b64decode
from typing import Annotated, Any

import trio

from mcpd import (
    Audio,
    Context,
    Elicit,
    Embedded,
    Image,
    Meta,
    Roots,
    RpcError,
    Sample,
    Text,
    ToolError,
    completion,
    prompt,
    resource,
    tool,
)

STEP_S = 0.05
"""Between the progress or log messages of a call."""
AWAY_S = 0.3
"""How long a call goes on after it has let go of its client's connection."""
RETRY_MS = 100

PIXEL = Image(
    b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==")
)


def _silence() -> Audio:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(8000)
        sound.writeframes(b"\x80" * 80)
    return Audio(file.getvalue())


# Resources


@resource("test://static-text", name="static-text", mime_type="text/plain", ttl_ms=60_000, cache_scope="public")
async def static_text() -> str:
    """A text that never changes."""
    return "This is the content of the static text resource."


@resource("test://static-binary", name="static-binary", mime_type="image/png", ttl_ms=60_000, cache_scope="public")
async def static_binary() -> Image:
    """An image that never changes."""
    return PIXEL


@resource("test://watched-resource", name="watched-resource", mime_type="text/plain")
async def watched_resource() -> str:
    """A resource to subscribe to."""
    return "This resource can be watched."


@resource("test://template/{id}/data", name="template-data", mime_type="application/json")
async def template_data(id: str) -> str:  # noqa: A002 - the suite names the variable
    """Data for any id."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


# Prompts and completion


@prompt
async def test_simple_prompt() -> str:
    """A prompt without arguments."""
    return "This is a simple prompt for testing."


@prompt
async def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """A prompt with two arguments.

    Args:
        arg1: The first one.
        arg2: The second one.
    """
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@completion(for_="test_prompt_with_arguments", argument="arg1")
async def first_arguments(value: str) -> list[str]:
    """Complete the first argument."""
    return [word for word in ("paris", "park", "party", "test") if word.startswith(value)]


@prompt
async def test_prompt_with_embedded_resource(resourceUri: str) -> list[Any]:  # noqa: N803 - the suite's name
    """A prompt that embeds a resource.

    Args:
        resourceUri: URI of the resource.
    """
    return [
        Embedded(resourceUri, text="Embedded resource content for testing.", mime_type="text/plain"),
        "Please process the embedded resource above.",
    ]


@prompt
async def test_prompt_with_image() -> list[Any]:
    """A prompt that holds an image."""
    return [PIXEL, "Please analyze the image above."]


@prompt
async def test_input_required_result_prompt(ctx: Context) -> str:
    """A prompt that asks its user something first."""
    answer = await ctx.elicit(user_context=Elicit("What context should the prompt use?", fields={"context": str}))
    return f"Use this context: {answer.content.get('context', 'none')}"


# Tools that answer at once


@tool
async def test_simple_text() -> str:
    """Return a text."""
    return "This is a simple text response for testing."


@tool
async def test_image_content() -> Image:
    """Return an image."""
    return PIXEL


@tool
async def test_audio_content() -> Audio:
    """Return a sound."""
    return _silence()


@tool
async def test_embedded_resource() -> Embedded:
    """Return an embedded resource."""
    return Embedded("test://embedded-resource", text="This is an embedded resource content.", mime_type="text/plain")


@tool
async def test_multiple_content_types() -> list[Text | Image | Embedded]:
    """Return a text, an image and a resource together."""
    data = json.dumps({"test": "data", "value": 123}, separators=(",", ":"))
    return [
        Text("Multiple content types test:"),
        PIXEL,
        Embedded("test://mixed-content-resource", text=data, mime_type="application/json"),
    ]


@tool
async def test_error_handling() -> str:
    """Fail, as a tool fails."""
    raise ToolError("This tool intentionally returns an error for testing")


@tool(
    input_schema={
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    }
)
async def json_schema_2020_12_tool(**contact: Any) -> str:
    """Take arguments that a raw JSON Schema 2020-12 describes."""
    return f"Contact: {json.dumps(contact)}"


@tool
async def test_x_mcp_header(region: Annotated[str, Meta(extra_json_schema={"x-mcp-header": "Region"})]) -> str:
    """Take an argument that is mirrored in a header.

    Args:
        region: Where to look.
    """
    return f"Region: {region}"


# Tools that say something on the way


@tool
async def test_tool_with_progress(ctx: Context) -> str:
    """Report progress three times."""
    await ctx.progress(0, 100, "Completed step 0 of 100")
    for done in (50, 100):
        await trio.sleep(STEP_S)
        await ctx.progress(done, 100, f"Completed step {done} of 100")
    return "Progress is complete."


@tool
async def test_tool_with_logging(ctx: Context) -> str:
    """Log three lines."""
    await ctx.log("info", "Tool execution started")
    await trio.sleep(STEP_S)
    await ctx.log("info", "Tool processing data")
    await trio.sleep(STEP_S)
    await ctx.log("info", "Tool execution completed")
    return "Three lines were logged."


@tool
async def test_logging_tool(ctx: Context) -> str:
    """Log one line for those who want it."""
    await ctx.log("info", "This line is for clients that asked for it.")
    return "Logging is done."


@tool
async def test_reconnection(ctx: Context) -> str:
    """Let the client's connection go in the middle of the call."""
    await trio.sleep(2 * STEP_S)
    ctx.release_stream(retry_ms=RETRY_MS)
    await trio.sleep(AWAY_S)
    return "Reconnection test completed successfully."


@tool
async def test_trigger_tool_change(ctx: Context) -> str:
    """Tell clients that the tools have changed."""
    ctx.changed("tools")
    return "The tools have changed."


@tool
async def test_trigger_prompt_change(ctx: Context) -> str:
    """Tell clients that the prompts have changed."""
    ctx.changed("prompts")
    return "The prompts have changed."


# Tools that need something of the client


@tool
async def test_missing_capability(ctx: Context) -> str:
    """Serve only clients that have a model."""
    ctx.require("sampling")
    return "The client has a model."


@tool
async def test_streaming_elicitation(ctx: Context) -> str:
    """Report progress, asking nothing in between."""
    await ctx.progress(0, 2, "Started")
    await trio.sleep(STEP_S)
    await ctx.progress(1, 2, "Half way")
    await trio.sleep(STEP_S)
    return "Streaming is complete."


@tool
async def test_sampling(prompt: str, ctx: Context) -> str:
    """Ask the client's model.

    Args:
        prompt: What to ask.
    """
    answer = await ctx.sample(reply=Sample(prompt, max_tokens=100))
    return f"LLM response: {answer.text}"


@tool
async def test_elicitation(message: str, ctx: Context) -> str:
    """Ask the user for a name and an address.

    Args:
        message: What the user is told.
    """
    form = {
        "type": "object",
        "properties": {
            "username": {"type": "string", "description": "User's response"},
            "email": {"type": "string", "description": "User's email address"},
        },
        "required": ["username", "email"],
    }
    answer = await ctx.elicit(user=Elicit(message, schema=form))
    return f"User response: <action: {answer.action}, content: {json.dumps(answer.content)}>"


@tool
async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Ask the user with a form whose every field has a default."""
    form = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "User name", "default": "John Doe"},
            "age": {"type": "integer", "description": "User age", "default": 30},
            "score": {"type": "number", "description": "User score", "default": 95.5},
            "status": {
                "type": "string",
                "description": "User status",
                "enum": ["active", "inactive", "pending"],
                "default": "active",
            },
            "verified": {"type": "boolean", "description": "Verification status", "default": True},
        },
        "required": [],
    }
    answer = await ctx.elicit(user=Elicit("Please review and update the form", schema=form))
    return f"Elicitation completed: action={answer.action}, content={json.dumps(answer.content)}"


@tool
async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Ask the user with a form that has every kind of choice."""
    titled = [{"const": f"value{number}", "title": f"Option {number}"} for number in (1, 2, 3)]
    form = {
        "type": "object",
        "properties": {
            "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
            "titledSingle": {"type": "string", "oneOf": titled},
            "legacyEnum": {
                "type": "string",
                "enum": ["opt1", "opt2", "opt3"],
                "enumNames": ["Option One", "Option Two", "Option Three"],
            },
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
            "titledMulti": {"type": "array", "items": {"anyOf": titled}},
        },
        "required": [],
    }
    answer = await ctx.elicit(user=Elicit("Please choose", schema=form))
    return f"Elicitation completed: action={answer.action}, content={json.dumps(answer.content)}"


# Tools that are called again with answers


@tool
async def test_input_required_result_elicitation(ctx: Context) -> str:
    """Greet the user by name."""
    answer = await ctx.elicit(user_name=Elicit("What is your name?", fields={"name": str}))
    return f"Hello, {answer.content['name']}!" if answer.accepted else "Hello, whoever you are!"


@tool
async def test_input_required_result_sampling(ctx: Context) -> str:
    """Ask the client's model for a capital."""
    answer = await ctx.sample(capital=Sample("What is the capital of France?", max_tokens=100))
    return f"The model says: {answer.text}"


@tool
async def test_input_required_result_list_roots(ctx: Context) -> str:
    """Ask the client for its roots."""
    roots = await ctx.roots(key="client_roots")
    return f"Roots: {', '.join(root.uri for root in roots)}"


@tool
async def test_input_required_result_request_state(ctx: Context) -> str:
    """Ask the user to confirm, keeping a state."""
    state = await ctx.once("state", lambda: "state-ok")
    answer = await ctx.elicit(confirm=Elicit("Please confirm", fields={"ok": bool}))
    return f"{state}: {answer.action}"


@tool
async def test_input_required_result_multiple_inputs(ctx: Context) -> str:
    """Ask for all three kinds of input at once."""
    answers = await ctx.ask(
        user_name=Elicit("What is your name?", fields={"name": str}),
        greeting=Sample("Generate a greeting", max_tokens=50),
        client_roots=Roots(),
    )
    greeting, roots = answers["greeting"].text, answers["client_roots"]
    return f"{answers['user_name'].content.get('name', 'Nobody')}, {greeting}, {len(roots)} roots"


@tool
async def test_input_required_result_multi_round(ctx: Context) -> str:
    """Ask twice, one question after the other."""
    name = await ctx.elicit(step1=Elicit("What is your name?", fields={"name": str}))
    color = await ctx.elicit(step2=Elicit("What is your favorite color?", fields={"color": str}))
    return f"{name.content.get('name', 'Nobody')} likes {color.content.get('color', 'nothing')}"


@tool
async def test_input_required_result_tampered_state(ctx: Context) -> str:
    """Ask the user to confirm; a changed state is refused."""
    answer = await ctx.elicit(confirm=Elicit("Please confirm", fields={"ok": bool}))
    return f"Confirmed: {answer.action}"


@tool
async def test_input_required_result_capabilities(ctx: Context) -> str:
    """Ask only what a client with a model and no user can answer."""
    answer = await ctx.sample(reply=Sample("Say something", max_tokens=100))
    return f"The model says: {answer.text}"


# Tools of the tasks extension


@tool
async def greet(name: str) -> str:
    """Greet at once.

    Args:
        name: Whom.
    """
    return f"Hello, {name}!"


@tool(task="optional")
async def slow_compute(seconds: float, label: str = "") -> str:
    """Take a while.

    Args:
        seconds: How long.
        label: What the result is called.
    """
    await trio.sleep(seconds)
    return f"Computed {label or 'something'} in {seconds:g} s"


@tool(task="required")
async def failing_job() -> str:
    """Fail, as a tool fails, in a task."""
    raise ToolError("This job fails")


@tool(task="required")
async def protocol_error_job() -> str:
    """Fail with a JSON-RPC error, in a task."""
    raise RpcError(-32603, "This job cannot be done")


@tool(task="required")
async def confirm_delete(filename: str, ctx: Context) -> str:
    """Ask the user to confirm, in a task.

    Args:
        filename: What would be deleted.
    """
    answer = await ctx.elicit(confirm=Elicit(f"Delete {filename}?", fields={"confirm": bool}))
    return f"{filename} deleted" if answer.accepted and answer.content["confirm"] else f"{filename} kept"


@tool(task="required")
async def multi_input(ctx: Context) -> str:
    """Ask two questions at once, in a task."""
    answers = await ctx.ask(
        name=Elicit("What is your name?", fields={"name": str}),
        confirm=Elicit("Are you sure?", fields={"confirm": bool}),
    )
    return f"{answers['name'].content.get('name', 'Nobody')}: {answers['confirm'].action}"


@tool(task="required", asks_first=True)
async def test_tool_with_task(ctx: Context) -> str:
    """Ask for a name first, then go on as a task."""
    answer = await ctx.elicit(user_name=Elicit("What is your name?", fields={"name": str}))
    await ctx.start_task()
    await trio.sleep(STEP_S)
    return f"Hello, {answer.content.get('name', 'stranger')}, from a task!"
