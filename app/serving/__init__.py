"""The Serve application: gateway, retriever, generators, reader, request log; above the stages."""
