"""What an operator sees: metrics, logs, health.

Packages report through values handed to them by the composition root; nothing here knows a tool, a transport or a
store. Only this package and `gateway.operations` know Prometheus. Imports nothing itself.

Sources: surfaces "Metrics", "HTTP"; architecture section 2.
"""
