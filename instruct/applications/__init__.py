"""Small programs over `instruct.execute`: ask a folder of documents, plan, route messages, write under constraints."""
