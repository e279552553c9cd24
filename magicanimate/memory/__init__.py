"""Memory: how an animation is arranged where there is little of it, and what happens when it runs out."""
