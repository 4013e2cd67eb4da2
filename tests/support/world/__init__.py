"""A world in which time, processes, machines, network, stores and SignalWire are simulated, from one seed.

- `loops`: an event loop that runs one callback at a time.
- `core`: the world, its machines, and the processes on them. It decides what runs next, and what time it is.
- `space`: SignalWire, and the network that leads to it.
- `stores`: what the processes share a pair through.
- `weather`: everything that goes wrong. `line_weather` has what concerns the gateway.
- `gateway`: the realtime gateway, and the connections that lead to it.
- `judge`: the guarantees, and what breaks them. `realtime_judge` has those of realtime connections.
- `suites`: applications that use the library in this world.

The library's own code runs unchanged, that of its stores included. Only what lies below it is simulated: the event
loop, the clocks, the HTTP request, the WebSocket, the connection to Redis, and the thread of an SQLite file.
"""
