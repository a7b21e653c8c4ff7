"""Words and shapes that everything else rests on; imports nothing else of the package."""
