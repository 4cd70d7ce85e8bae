"""Resources: what clients may read, by exact URI or by URI template.

`manager` lists, finds and reads them; `templates` reads URI templates backwards. Authors declare resources with
`mcpd.resource`; `app` hands the declarations over and `service` asks the manager. Deliberately not here: subscriptions,
which belong to `messages` and hear of changes through `events`.

Sources: MCP 2026-07-28 server/resources (RSC-1..3).
"""
