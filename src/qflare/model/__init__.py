"""Records and ports: the types that cross from one wing to another, and what a wing may ask of the others."""
