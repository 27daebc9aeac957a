"""The service: shipped files behind HTTP, on the runtime's dependencies and the extra `serve`."""
