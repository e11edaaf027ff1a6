"""Checks of `peerfabric doctor`: what keeps nodes apart, each cause with a step to take."""
