"""`horovod.common`, served by Khorus."""
