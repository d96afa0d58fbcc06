"""What every sum needs: encoding, masks, agreed columns and the engine that drives a protocol."""
