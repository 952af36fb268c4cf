"""Training rows made from chunks: facts read out of the text, asked about in many wordings."""
