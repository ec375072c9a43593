"""put TEXT, or get: one durable message of one durable queue of the RabbitMQ in this container."""

import sys

import pika  # type: ignore[import-not-found]

channel = pika.BlockingConnection(pika.ConnectionParameters("localhost")).channel()
channel.queue_declare("work", durable=True)
channel.confirm_delivery()
if sys.argv[1] == "put":
    channel.basic_publish("", "work", sys.argv[2].encode(), pika.BasicProperties(delivery_mode=2))
else:
    print(channel.basic_get("work", auto_ack=True)[2].decode())
