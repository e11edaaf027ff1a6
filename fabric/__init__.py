"""peerfabric: brokerless messaging between processes."""
