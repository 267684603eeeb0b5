"""`headstart store`: what lies in the embedding store, whether it is whole, and what can go."""
