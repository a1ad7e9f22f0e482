"""The losses, and the candidates that they rank against."""
