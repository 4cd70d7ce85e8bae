"""What an operator sees: metrics, logs, health.

Rooms report through values handed to them by the composition root; nothing here knows a tool, a door or a store.
Only this room and `gateway.operations` know Prometheus. Imports nothing itself.

Sources: surfaces "Metrics", "HTTP"; architecture section 2.
"""
