"""opc.machine"""
