"""Prompts: message templates that clients offer to their users, from code and from files.

`manager` lists them and makes their messages; `loader` finds those in files and follows the files as they change.
Authors declare prompts with `mcpd.prompt`; `app` joins the two and publishes the change, `service` asks the manager.

Sources: MCP 2026-07-28 server/prompts (PRM-1).
"""
